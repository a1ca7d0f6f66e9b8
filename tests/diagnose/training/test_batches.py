"""The stream of batches."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
import torch

from diagnose.training.batches import batches, generator


def stream(n: int, size: int, count: int, seed: int = 0, index: int = 0) -> list[list[int]]:
    return [piece.tolist() for piece in islice(batches(n, size, seed, index), count)]


@pytest.mark.parametrize(("n", "size"), [(10, 3), (10, 5), (7, 6), (5, 1)])
def test_pieces_of_permutations_laid_end_to_end(n: int, size: int) -> None:
    pieces = stream(n, size, 4 * n)
    assert all(len(piece) == size for piece in pieces)
    flat = [sample for piece in pieces for sample in piece]
    for start in range(0, len(flat) - n + 1, n):
        assert sorted(flat[start : start + n]) == list(range(n))


def test_ten_epochs_of_a4a_are_187_steps_of_256() -> None:
    flat = [sample for piece in stream(4781, 256, 187) for sample in piece]
    counts = Counter(flat)
    assert len(flat) == 187 * 256
    assert set(counts.values()) <= {10, 11}
    assert len(counts) == 4781


def test_a_new_permutation_for_each_epoch() -> None:
    first, second = stream(50, 25, 4)[:2], stream(50, 25, 4)[2:]
    assert first != second


def test_the_same_seed_gives_the_same_stream_and_another_another() -> None:
    base = stream(40, 8, 10, seed=3, index=1)
    assert base == stream(40, 8, 10, seed=3, index=1)
    others = [
        stream(40, 8, 10, seed=3, index=2),
        stream(40, 8, 10, seed=4, index=1),
        stream(40, 8, 10, seed=1, index=3),
    ]
    assert all(base != other for other in others)


def test_seed_and_index_are_not_interchangeable() -> None:
    draws = {
        tuple(torch.randperm(30, generator=generator(seed, index)).tolist()) for seed in range(4) for index in range(4)
    }
    assert len(draws) == 16


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    stream(20, 6, 10)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("size", [0, 10, 11])
def test_a_batch_is_smaller_than_the_sample_set(size: int) -> None:
    with pytest.raises(ValueError, match="no piece of 10"):
        next(batches(10, size, 0, 0))
