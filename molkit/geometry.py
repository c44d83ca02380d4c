"""Rotations."""

import torch
from torch import Tensor


def random_rotations(count: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rotation matrices [count, 3, 3] drawn uniformly from SO(3), by unit quaternions of normal numbers.

    Source: Shoemake, Graphics Gems III (1992): a quaternion uniform on the sphere is a rotation uniform on SO(3).
    """
    q = torch.randn(count, 4, generator=generator, dtype=torch.float64, device=generator.device)
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2).to(dtype)
