"""What transformers ships, as loaded and with padded batches, against the models' own losses of one sequence alone."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimators import Problem, noise, smoothness
from estimators.numbers.moments import moments_of_rows
from estimators.per_sample.engines import loop_moments, vmap_rows
from estimators.task.products import dense_hessian
from tests import rounding
from tests.markers import marked
from tests.transformers_cases import (
    BY_NAME,
    CASES,
    LENGTHS,
    PATH,
    Case,
    answers,
    frozen,
    gpt2,
    idle,
    lora,
    mixtral,
    unpadded,
)
from tests.transformers_oracles import Oracle, Wide

EXACT = 1e-10
FAST = [BY_NAME[name] for name in ("gpt2", "bert-masked", "vit", "t5", "mixtral", "lora")]
"""Cases that run always: a causal and a masked model, images, an encoder-decoder, experts, an adapter."""
SINGLE = rounding.bound(torch.float32, 4 * PATH + len(LENGTHS) * max(LENGTHS))


def _wide(case: Case) -> contextlib.AbstractContextManager[Any]:
    """Models that round to float32 on the way are compared in float64 throughout."""
    return Wide() if case.narrow else contextlib.nullcontext()


def _vector(d: int, seed: int = 0) -> Tensor:
    v = torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    unit: Tensor = v / v.norm()
    return unit


def _assert_close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """To a tolerance relative to the largest number, which is not 0."""
    size = float(wanted.abs().max())
    assert size > 0
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance * size)


def _assert_measures(problem: Problem, oracle: Oracle, tolerance: float) -> None:
    """Loss, gradient, sigma and a product with the Hessian are those of the oracle."""
    rows, v = oracle.rows(), _vector(problem.d)
    assert problem.loss() == pytest.approx(oracle.loss(), rel=tolerance)
    _assert_close(problem.flatten(problem.gradient()), rows.mean(0), tolerance)
    _assert_close(problem.flatten(noise(problem).vectors), rows.std(0, correction=0), tolerance)
    product = problem.flatten(problem.hessian_vector_product(problem.unflatten(v.to(problem.dtype))))
    _assert_close(product, oracle.operator()(v), tolerance)


# -- against brute force ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", marked("sweep", CASES, FAST), ids=str)
def test_measures(case: Case) -> None:
    model, samples = case.model(), case.samples()
    with _wide(case):
        _assert_measures(Problem(model, samples), Oracle(model, samples), EXACT)


@pytest.mark.parametrize("case", marked("sweep", [case for case in CASES if case.narrow], [BY_NAME["t5"]]), ids=str)
def test_measures_as_loaded(case: Case) -> None:
    model, samples = case.model(), case.samples()
    _assert_measures(Problem(model, samples), Oracle(model, samples), SINGLE)


@pytest.mark.parametrize("case", marked("sweep", CASES, FAST), ids=str)
def test_products_are_symmetric(case: Case) -> None:
    model, samples = case.model(), case.samples()
    with _wide(case):
        problem = Problem(model, samples)
        u, v = _vector(problem.d, 2), _vector(problem.d, 3)
        hu, hv = (problem.flatten(problem.hessian_vector_product(problem.unflatten(x))) for x in (u, v))
    assert float(v @ hu) == pytest.approx(float(u @ hv), abs=1e-12 * float(hu.norm()))


@pytest.mark.parametrize("task", marked("sweep", [None, "CAUSAL_LM"], [None]))
def test_the_whole_hessian_of_an_adapter(task: str | None) -> None:
    model, samples = lora(task), answers()
    _assert_close(dense_hessian(Problem(model, samples)), Oracle(model, samples).hessian(), EXACT)


@pytest.mark.parametrize("case", marked("sweep", CASES, FAST), ids=str)
def test_pieces_of_a_batch_sum_to_the_whole(case: Case) -> None:
    """Rows of a piece share other paddings and other labelled positions than those of the whole batch."""
    model, samples = case.model(), case.samples()
    with _wide(case):
        whole, pieces = Problem(model, samples), Problem(model, samples)
        pieces.chunk = 2
        v = whole.unflatten(_vector(whole.d))
        assert pieces.loss() == pytest.approx(whole.loss(), rel=EXACT)
        _assert_close(pieces.flatten(pieces.gradient()), whole.flatten(whole.gradient()), EXACT)
        products = (whole.flatten(p.hessian_vector_product(v)) for p in (pieces, whole))
        _assert_close(next(products), next(products), EXACT)


def test_experts_as_loaded() -> None:
    """The grouped kernel that transformers chooses for experts, in float32, has its second derivative."""
    samples, wanted = answers(), Oracle(mixtral(), answers())
    _assert_measures(Problem(mixtral("grouped_mm").float(), samples), wanted, SINGLE)


def test_both_engines() -> None:
    """Without a mask vmap maps over GPT-2: the same moments as from the loop and from the oracle."""
    model, samples = gpt2(), unpadded()
    problem = Problem(model, samples)
    assert "loop-over-samples" not in [finding.code for finding in noise(problem).warnings]
    rows = Oracle(model, samples).rows()
    with problem.measuring():
        mapped, looped = moments_of_rows(vmap_rows(problem, problem.samples)), loop_moments(problem, range(problem.n))
    for moments in (mapped, looped):
        _assert_close(moments.mean, rows.mean(0), EXACT)
        _assert_close((moments.squares / moments.count).sqrt(), rows.std(0, correction=0), EXACT)


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama", "mixtral", "mamba"])
def test_logits_where_labels_are(name: str) -> None:
    """Prompts and padding cost no row of the head; the last position stays for the shift."""
    model, samples, seen = BY_NAME[name].model(), answers(), []
    problem = Problem(model, samples)
    head: nn.Module = model.lm_head  # type: ignore[assignment]
    handle = head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    problem.gradient()
    handle.remove()
    predicted = int((samples["labels"][:, 1:] >= 0).any(0).sum())
    assert seen == [predicted + 1]
    assert predicted + 1 < samples["labels"].shape[1]


# -- what is no coordinate, and what is said -------------------------------------------------------


def _found(problem: Problem, code: str) -> str:
    (found,) = [finding.found for finding in problem.findings if finding.code == code]
    return found


def test_an_unused_parameter() -> None:
    problem = Problem(idle(), answers())
    assert "idle" in _found(problem, "unused-parameters")
    sigma, product = noise(problem).vectors, problem.hessian_vector_product(problem.parameters)
    for vector in (sigma, product):
        assert torch.equal(vector["idle"], torch.zeros(3, dtype=torch.float64))
    assert float(sigma["transformer.wte.weight"].abs().sum()) > 0


class _Routed(nn.Module):
    """Samples with a large first number also go through ``rare``; the others never touch it."""

    def __init__(self) -> None:
        super().__init__()
        self.common, self.rare = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.common(x)
        chosen = (x[:, 0] > 9).nonzero()[:, 0]
        return output.index_add(0, chosen, self.rare(x[chosen])) if chosen.numel() else output


def test_a_parameter_that_a_late_sample_uses_is_not_called_unused() -> None:
    """What is reached may depend on the sample, as with experts: nothing is unused before all samples were seen."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    x[7, 0] = 10
    problem = Problem(_Routed(), (x, torch.arange(8) % 2))
    assert float(problem.gradient()["rare.weight"].abs().sum()) > 0
    assert "unused-parameters" not in [finding.code for finding in problem.findings]


def test_frozen_parameters() -> None:
    problem = Problem(frozen(), answers())
    assert _found(problem, "frozen-parameters") == "2 frozen tensors"
    for vector in (noise(problem).vectors, problem.gradient(), problem.hessian_vector_product(problem.parameters)):
        assert vector.keys() == set(problem.names)
        assert not [name for name in vector if "wte" in name or "wpe" in name or "lm_head" in name]


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_an_adapter(task: str | None) -> None:
    model = lora(task)
    problem = Problem(model, answers())
    assert set(noise(problem).vectors) == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(problem.names) == 4  # two matrices for each of two layers
    assert "frozen" in _found(problem, "frozen-parameters")


def test_an_adapter_on_a_model_of_low_precision() -> None:
    """Adapters in float32 on bfloat16: rounding enters all the same, and is said; the loss sums in float32."""
    model, samples = lora(), answers()
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if "lora_" in name else torch.bfloat16)
    problem = Problem(model, samples)
    assert problem.dtype == torch.float32
    assert _found(problem, "low-precision") == "weights in bfloat16"
    assert smoothness(problem, gap=10.0).confidence is None
    wanted = Oracle(lora(), samples).rows().mean(0)
    gradient = problem.flatten(problem.gradient()).double()
    assert float((gradient - wanted).norm()) < 0.1 * float(wanted.norm())


LOW = [
    (name, dtype)
    for name in ("gpt2", "bert-masked", "vit", "opt", "t5", "llama", "mamba")
    for dtype in ("bfloat16", "float16")
]


@pytest.mark.parametrize(("name", "dtype"), marked("sweep", LOW, [LOW[0], LOW[3], LOW[8]]))
def test_low_precision(name: str, dtype: str) -> None:
    """Said, and finite; the gradient is that of float64 but for rounding."""
    model, samples = BY_NAME[name].model(), BY_NAME[name].samples()
    wanted = Oracle(model, samples).rows().mean(0)
    problem = Problem(model.to(getattr(torch, dtype)), samples)
    assert dtype in _found(problem, "low-precision")
    gradient = problem.flatten(problem.gradient()).double()
    assert float((gradient - wanted).norm()) < 0.1 * float(wanted.norm())
    sigma, product = noise(problem).vectors, problem.hessian_vector_product(problem.parameters)
    for vector in (sigma, product):
        flat = problem.flatten(vector)
        assert bool(torch.isfinite(flat).all())
        assert float(flat.abs().max()) > 0
