"""The batches of a run: the same stream for every method and every learning rate; a seed changes them alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor


def generator(seed: int, index: int) -> torch.Generator:
    """The random stream of the ``index``-th batch order of a diagnosis with ``--seed`` ``seed``."""
    # torch's generator on the CPU reads the low 32 bits of its seed alone, so the two numbers are hashed into them.
    digest = hashlib.sha256(f"batches {seed} {index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def batches(n: int, size: int, seed: int, index: int) -> Iterator[Tensor]:
    """Endless batches, each (size,) sample numbers from a stream of fresh permutations of 0..n-1.

    The permutations are laid end to end and cut into pieces of exactly ``size``, so a piece may straddle two of
    them and no remainder is dropped. ``size`` must be below n: from n on, a batch is all of them.
    """
    if not 0 < size < n:
        raise ValueError(f"a batch of {size} is no piece of {n} samples")
    random = generator(seed, index)
    stream = torch.randperm(n, generator=random)
    while True:
        while stream.numel() < size:
            stream = torch.cat([stream, torch.randperm(n, generator=random)])
        yield stream[:size]
        stream = stream[size:]
