"""Rotations, and the distance of two structures after the best one."""

import numpy as np
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


def _require_pair(positions: np.ndarray, target: np.ndarray) -> None:
    """Raise ValueError unless both are finite [A, 3] with A at least 1."""
    if positions.shape != target.shape or positions.ndim != 2 or positions.shape[1] != 3 or len(positions) == 0:
        raise ValueError(f"expected two arrays of one shape [A, 3], got {positions.shape} and {target.shape}")
    for name, values in (("positions", positions), ("target", target)):
        if not np.isfinite(values).all():
            atom = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise ValueError(f"{name}: the coordinates of atom {atom + 1} are not finite: {values[atom].tolist()}")


def superpose(positions: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Positions [A, 3] moved and turned so that they lie on the target [A, 3] as well as they can.

    Source: Kabsch, Acta Cryst. A 32, 922 (1976). Mirror images are not superposed. Raises ValueError for other
    shapes, no atom, or a coordinate that is not finite.
    """
    _require_pair(positions, target)
    centre = target.mean(axis=0)
    first, second = positions - positions.mean(axis=0), target - centre
    left, _, right = np.linalg.svd(first.T @ second)
    left[:, -1] *= np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0
    return first @ (left @ right) + centre


def best_rotations(moving: Tensor, fixed: Tensor, batch: Tensor, num_molecules: int) -> Tensor:
    """Proper rotation [B, 3, 3] of each molecule that turns its centred `moving` [A, 3] best onto `fixed` [A, 3].

    Apply as (moving[:, None, :] @ rotation[batch])[:, 0]. Source: Kabsch, as above.
    """
    product = (moving[:, :, None] * fixed[:, None, :]).double()
    left, _, right = torch.linalg.svd(product.new_zeros(num_molecules, 3, 3).index_add(0, batch, product))
    sign = torch.sign(torch.linalg.det(left) * torch.linalg.det(right))
    left = torch.cat([left[:, :, :2], left[:, :, 2:] * sign[:, None, None]], dim=-1)
    return (left @ right).to(moving.dtype)


def aligned_rmsd(positions: np.ndarray, target: np.ndarray) -> float:
    """Root mean square deviation [A, 3] after the best shift and proper rotation, in the unit of the input.

    Source: Kabsch, Acta Cryst. A 32, 922 (1976). Mirror images are not superposed. Raises ValueError for other
    shapes, no atom, or a coordinate that is not finite.

    >>> corner = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    >>> round(aligned_rmsd(corner[:, [1, 2, 0]] + 5.0, corner), 6)  # shifted and turned
    0.0
    """
    _require_pair(positions, target)
    first, second = positions - positions.mean(axis=0), target - target.mean(axis=0)
    left, values, right = np.linalg.svd(first.T @ second)
    values[-1] *= np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0
    square = (first**2).sum() + (second**2).sum() - 2.0 * values.sum()
    return float(np.sqrt(max(0.0, square) / len(positions)))
