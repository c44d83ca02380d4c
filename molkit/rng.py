"""Random numbers are arguments: whoever owns the experiment makes the generator."""

import hashlib

import torch


def generator_from(*key: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator whose stream depends on every part of the key, the same on every machine.

    Used where a stream must follow from names and counters alone, for example (seed, rank, step) in training.
    """
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:7], "little"))


def fork(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """`count` independent generators on the CPU, drawn from `generator` (which advances)."""
    seeds = torch.randint(0, 2**62, (count,), generator=generator, device=generator.device)
    return [generator_from("fork", int(seed)) for seed in seeds]
