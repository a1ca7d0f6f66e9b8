"""Reference values of a trained language model: GPT-2 of 0.84M parameters on 16 sequences of 128 bytes of text that
it was not trained on. Each number comes twice, from the estimators and from brute force or other draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from estimators import Problem, hessian_diagonal, noise, smoothness, spectrum
from estimators.numbers.moments import Moments, moments_of_rows
from estimators.per_sample.engines import loop_moments, vmap_rows
from estimators.smoothness_vector.bracket import FEWEST_PRODUCTS
from tests import rounding
from tests.transformers_oracles import Oracle

SEQUENCES, LENGTH = 16, 128
POWER_STEPS = 40
PROBES = 10
LAYER = 128 + 32 + LENGTH + 128 + 128 + 512
"""Sums that follow each other in a layer: queries, scores, values over the positions, output, the network behind."""
ROUNDING = rounding.bound(torch.float32, 2 * (4 * LAYER + 128 + 256) + SEQUENCES * LENGTH)
"""Of a gradient and its sum over the samples, relative."""


@pytest.fixture(scope="module")
def problem(data_folder: Path, models_folder: Path) -> Problem:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(models_folder / "shakespeare-gpt2")
    text = (data_folder / "tinyshakespeare.txt").read_bytes()
    start = len(text) * 9 // 10
    tokens = torch.tensor(list(text[start : start + SEQUENCES * LENGTH])).reshape(SEQUENCES, LENGTH)
    return Problem(model, {"input_ids": tokens, "labels": tokens})


@pytest.fixture(scope="module")
def oracle(problem: Problem) -> Oracle:
    assert isinstance(problem.samples, dict)
    return Oracle(problem.model, problem.samples)


@pytest.fixture(scope="module")
def sharpness(oracle: Oracle) -> float:
    """Rayleigh quotient after steps of power iteration from a random start: max|eig H| from below."""
    product = oracle.operator()
    v = torch.randn(oracle.d, generator=torch.Generator().manual_seed(7))
    for _ in range(POWER_STEPS):
        v = product(v / v.norm())
    v = v / v.norm()
    return float(v @ product(v))


def _sigma(moments: Moments) -> torch.Tensor:
    return (moments.squares / moments.count).sqrt()


@pytest.mark.sweep
def test_sigma(problem: Problem, oracle: Oracle) -> None:
    """From the estimator, the loop, vmap and rows of the model's own loss."""
    rows = oracle.rows().double()
    wanted = rows.std(0, correction=0)
    with problem.measuring():
        looped = loop_moments(problem, range(problem.n))
        mapped = moments_of_rows(vmap_rows(problem, problem.samples))
    assert problem.loss() == pytest.approx(oracle.loss(), rel=ROUNDING)
    for sigma in (problem.flatten(noise(problem).vectors).double(), _sigma(looped), _sigma(mapped)):
        assert float((sigma - wanted).norm()) <= ROUNDING * float(wanted.norm())
    assert float((looped.mean - rows.mean(0)).norm()) <= ROUNDING * float(rows.mean(0).norm())


@pytest.mark.sweep
def test_sharpness(problem: Problem, sharpness: float) -> None:
    result = spectrum(problem)
    assert result.largest is not None
    assert result.largest_upper is not None
    assert result.largest == pytest.approx(sharpness, rel=5e-3)
    assert sharpness <= result.largest_upper * (1 + ROUNDING)


@pytest.mark.slow
def test_sharpness_of_the_bracket(problem: Problem, sharpness: float) -> None:
    result = smoothness(problem, gap=10.0, max_products=FEWEST_PRODUCTS)
    assert result.sharpness == pytest.approx(sharpness, rel=5e-3)


@pytest.mark.sweep
def test_trace(problem: Problem) -> None:
    """The 95% intervals from two disjoint sets of probes overlap, and neither is the whole line."""
    one, other = (hessian_diagonal(problem, probes=PROBES, seed=seed).trace_interval for seed in (0, 1))
    assert one is not None
    assert other is not None
    assert one != other
    assert max(one[0], other[0]) <= min(one[1], other[1])
    assert one[0] > 0  # at trained weights the trace is positive by far
