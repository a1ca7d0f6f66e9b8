"""Gradient noise against one-sample-at-a-time gradients, its edge cases, and what a batch does to it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from estimators import InputError, Problem, noise, per_sample
from estimators.per_sample import Moments, gradient_moments, moments_of_rows
from tests import oracles
from tests.problems import BY_NAME, CASES, Case, Parts, Scores, quadratic, symmetric, value

ENGINES = {"vmap": 1 << 30, "loop": 0}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both engines in turn; small groups, so that several are merged."""
    monkeypatch.setattr(per_sample, "VMAP_LIMIT", ENGINES[request.param])
    monkeypatch.setattr(per_sample, "LOOP_GROUP", 4)
    return str(request.param)


# -- against the oracle ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_field(case: Case, engine: str) -> None:
    problem = case.problem()
    problem._chunk = 7
    result = noise(problem)
    rows = oracles.per_sample_gradients(case.parts())
    sigma, mean = rows.std(0), rows.mean(0)
    np.testing.assert_allclose(problem.flatten(result.vectors).numpy(), sigma, rtol=1e-12, atol=1e-14)
    d, l1, l2 = len(sigma), sigma.sum(), np.linalg.norm(sigma)
    live = sigma[sigma > 0]
    wanted = {
        "l1": l1,
        "l2": l2,
        "sqrt_d_l2": math.sqrt(d) * l2,
        "density": l1 / (math.sqrt(d) * l2),
        "density_live": l1 / (math.sqrt(len(live)) * l2),
        "dead_fraction": 1 - len(live) / d,
        "effective_dimension": (l1 / l2) ** 2,
        "noise_scale_l2": l2**2 / np.linalg.norm(mean) ** 2,
        "noise_scale_l1": (l1 / np.abs(mean).sum()) ** 2,
        "gradient_l1": np.abs(mean).sum(),
        "gradient_l2": np.linalg.norm(mean),
    }
    assert {key: getattr(result, key) for key in wanted} == pytest.approx(wanted, rel=1e-11)
    assert result.exact is True
    assert result.samples == problem.n
    assert result.density_interval == (result.density, result.density)
    assert result.l1_interval == (result.l1, result.l1)
    assert (result.dead_fraction or 0.0) > 0 or not case.dead
    assert set(result.why) - {"token_deciles"} == {"batch_scaling"}
    assert (result.token_deciles is None) == ("token_deciles" in result.why)


@pytest.mark.parametrize("case", [BY_NAME["regression"], BY_NAME["gpt2"]], ids=str)
def test_by_tensor(case: Case) -> None:
    problem = case.problem()
    result = noise(problem)
    assert result.tensors is not None
    assert [row["name"] for row in result.tensors] == list(problem.names)
    assert sum(row["parameters"] for row in result.tensors) == problem.d
    assert sum(row["l1"] for row in result.tensors) == pytest.approx(result.l1)
    assert sum(row["l2"] ** 2 for row in result.tensors) == pytest.approx((result.l2 or 0.0) ** 2)
    for row in result.tensors:
        sigma = result.vectors[row["name"]].numpy()
        assert row["density"] == pytest.approx(sigma.sum() / (math.sqrt(sigma.size) * np.linalg.norm(sigma)))
        assert row["dead_fraction"] == pytest.approx((sigma == 0).mean())


def test_unseen_tokens_are_dead() -> None:
    result = noise(BY_NAME["unseen-token"].problem())
    rows = result.vectors["embedding.weight"]
    assert torch.equal((rows == 0).all(1), torch.tensor([False, False, True, False, False, False, True]))
    assert result.dead_fraction == pytest.approx(6 / 33)
    assert (result.density_live or 0.0) > (result.density or 1.0)


def test_float32_stays_close_to_float64() -> None:
    model, samples, loss = BY_NAME["cnn-batchnorm"].parts()
    wide = noise(Problem(model, samples, loss))
    narrow = noise(Problem(model.float(), samples, loss))
    assert narrow.l1 == pytest.approx(wide.l1, rel=1e-5)
    assert {v.dtype for v in narrow.vectors.values()} == {torch.float32}
    assert {v.dtype for v in wide.vectors.values()} == {torch.float64}


def test_low_precision_gives_float32_vectors() -> None:
    x, y = torch.randn(40, 4), torch.arange(40) % 3
    result = noise(Problem(nn.Linear(4, 3).bfloat16(), (x, y)))
    assert {v.dtype for v in result.vectors.values()} == {torch.float32}
    assert result.density is not None


# -- moments ---------------------------------------------------------------------------------------


def test_merged_moments_do_not_cancel() -> None:
    """Deviations of size 1 on a mean of 1e8: sums of squares would lose every digit of them."""
    rows = 1e8 + torch.randn(200, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total: Moments | None = None
    for part in torch.split(rows, [1, 50, 2, 147]):
        total = moments_of_rows(part) if total is None else total.merge(moments_of_rows(part))
    assert total is not None
    exact = (rows - 1e8).numpy()
    np.testing.assert_allclose(total.squares.numpy(), exact.var(0) * 200, rtol=1e-7)
    naive = rows.square().sum(0) - rows.sum(0).square() / 200  # what the check is for
    assert float((naive / total.squares - 1).abs().max()) > 1e-2


def test_engines_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = BY_NAME["cnn-batchnorm"].problem()
    by_vmap, notes = gradient_moments(problem)
    monkeypatch.setattr(per_sample, "VMAP_LIMIT", 0)
    by_loop, _ = gradient_moments(problem)
    assert notes == ()
    torch.testing.assert_close(by_vmap.squares, by_loop.squares, rtol=1e-11, atol=1e-15)
    torch.testing.assert_close(by_vmap.mean, by_loop.mean, rtol=1e-11, atol=1e-15)


def test_memory_does_not_grow_with_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """No chunk of rows holds more numbers than ROW_NUMBERS."""
    monkeypatch.setattr(per_sample, "ROW_NUMBERS", 100)
    seen: list[int] = []

    def watched(rows: Tensor) -> Moments:
        seen.append(rows.numel())
        return moments_of_rows(rows)

    monkeypatch.setattr(per_sample, "moments_of_rows", watched)
    problem = BY_NAME["logistic"].problem()
    noise(problem)
    assert max(seen) <= 100
    assert sum(seen) == problem.n * problem.d


class _DataDependent(Scores):
    """Looks at the data to choose a branch: vmap cannot run it."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w if float(x.max()) < 1e6 else 2 * (x @ self.w)


def _loop_takes_over(found: str) -> None:
    samples = torch.randn(35, 5).double(), torch.sign(torch.randn(35)).double()
    parts: Parts = _DataDependent(5).double(), samples, "logistic"
    problem = Problem(*parts)
    result = noise(problem)
    (note,) = result.warnings
    assert (note.code, note.severity) == ("loop-over-samples", "note")
    assert found in note.found
    np.testing.assert_allclose(problem.flatten(result.vectors).numpy(), oracles.sigma(parts), rtol=1e-12)


def test_the_loop_takes_over_where_vmap_raises() -> None:
    _loop_takes_over("RuntimeError: vmap")


def test_the_loop_takes_over_where_vmap_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(problem: Problem, samples: Any) -> Tensor:
        rows = torch.stack([per_sample._loop_row(problem, i) for i in (0, problem.n - 1)])
        rows[1] *= 1 + 1e-6
        return rows

    monkeypatch.setattr(per_sample, "_vmap_rows", wrong)
    _loop_takes_over("gradients of w differ")


def test_the_clean_case_has_no_note() -> None:
    assert noise(BY_NAME["logistic"].problem()).warnings == ()


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    """The root has a finite value and an infinite slope at 0, here in a sample that opening does not look at."""
    x = torch.ones(12, 3)
    x[9] = 0
    with pytest.raises(InputError, match="not finite") as caught:
        noise(Problem(Scores(3), (x, torch.zeros(12)), lambda output, _: (output * 0 + 1) * output.abs().sqrt()))
    assert caught.value.where == "sample 9, w"


# -- edge cases ------------------------------------------------------------------------------------

RATIOS = ("density", "density_interval", "density_live", "effective_dimension")


def test_no_noise_is_null_with_the_reason() -> None:
    problem = Problem(*quadratic(symmetric(8), n=33, noise=0.0))
    result = noise(problem)
    assert (result.l1, result.l2, result.sqrt_d_l2, result.dead_fraction) == (0, 0, 0, 1)
    assert result.noise_scale_l2 == 0
    for key in RATIOS:
        assert getattr(result, key) is None
        assert "gradients of the 33 samples are equal" in result.why[key]
    assert result.tensors is not None
    assert all(row["density"] is None and row["why"]["density"] for row in result.tensors)


def test_equal_samples_show_no_noise_in_float32() -> None:
    """A batched kernel may round equal rows differently; that is no noise."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 3))
    result = noise(Problem(model, (torch.randn(1, 7).expand(37, 7), torch.ones(37, dtype=torch.long))))
    assert result.l1 == 0
    assert result.density is None


def test_the_only_row_has_no_noise() -> None:
    result = noise(Problem(*quadratic(symmetric(8), n=1)))
    assert (result.l1, result.exact) == (0, True)
    for key in RATIOS:
        assert getattr(result, key) is None
        assert "one sample" in result.why[key]


def test_one_row_of_many_is_no_measurement() -> None:
    result = noise(Problem(*quadratic(symmetric(8), n=1)), rows=50)
    for key in ("l1", "l2", "sqrt_d_l2", "l1_interval", "dead_fraction", "tensors", "noise_scale_l2", *RATIOS):
        assert getattr(result, key) is None
        assert result.why[key]
    assert dict(result.vectors) == {}
    assert (result.gradient_l2 or 0.0) > 0


def test_a_draw_has_no_interval() -> None:
    problem = BY_NAME["logistic"].problem()
    result, whole = noise(problem, rows=1000), noise(problem)
    assert result.exact is False
    assert (result.l1, result.l2, result.density) == (whole.l1, whole.l2, whole.density)
    for key in ("l1_interval", "density_interval"):
        assert getattr(result, key) is None
        assert "a draw of 40 of 1,000 rows" in result.why[key]


def test_fewer_rows_than_samples_are_refused() -> None:
    with pytest.raises(InputError, match="39 rows cannot hold 40 samples"):
        noise(BY_NAME["logistic"].problem(), rows=39)


def _shifted(mean: float, n: int = 64) -> Problem:
    """Five coordinates with noise of size 1 around a gradient of ``mean`` each, exactly."""
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0, correction=0) + mean
    return Problem(Scores(5).double(), (x, torch.zeros(n)), value)


@pytest.mark.parametrize("key", ["noise_scale_l1", "noise_scale_l2"])
def test_noise_scale_is_resolved_by_the_gradient_that_stands_out(key: str) -> None:
    # sigma/sqrt(n) = 1/8: a gradient of 1 stands out, one of 1/20 does not, unless the samples are all there are.
    assert getattr(noise(_shifted(1.0), rows=10**6), key) == pytest.approx(1.0)
    small = noise(_shifted(0.05), rows=10**6)
    assert getattr(small, key) is None
    assert small.why[key].startswith("not resolved: ")
    assert getattr(noise(_shifted(0.05)), key) == pytest.approx(400.0)


@pytest.mark.parametrize("key", ["noise_scale_l1", "noise_scale_l2"])
def test_noise_scale_is_null_where_the_gradient_vanishes(key: str) -> None:
    result = noise(_shifted(0.0))
    assert getattr(result, key) is None
    assert result.why[key] == "not resolved: the gradient vanishes at this point"


@pytest.mark.parametrize(("n", "codes"), [(29, ["too-few-samples"]), (30, [])])
@pytest.mark.parametrize("rows", [None, 1000])
def test_too_few_samples(n: int, codes: list[str], rows: int | None) -> None:
    found = noise(Problem(*quadratic(symmetric(8), n=n)), rows=rows).warnings
    assert [w.code for w in found] == codes
    assert all(w.severity == "warning" and str(n) in w.found for w in found)


# -- what a batch does -----------------------------------------------------------------------------


def test_variance_of_a_batch() -> None:
    """All batches of 2: drawn with replacement sigma^2/2, pieces of a permutation sigma^2/2 (n - 2)/(n - 1)."""
    parts = quadratic(symmetric(6), n=5)
    rows = oracles.per_sample_gradients(parts)
    problem = Problem(*parts)
    variance = problem.flatten(noise(problem).vectors).numpy() ** 2
    with_replacement = [rows[list(pick)].mean(0) for pick in itertools.product(range(5), repeat=2)]
    np.testing.assert_allclose(np.var(with_replacement, 0), variance / 2, rtol=1e-12)
    pieces = [rows[list(pick)].mean(0) for pick in itertools.combinations(range(5), 2)]
    np.testing.assert_allclose(np.var(pieces, 0), variance / 2 * 3 / 4, rtol=1e-12)


# -- progress and cost -----------------------------------------------------------------------------


def test_progress_and_passes(engine: str) -> None:
    problem = BY_NAME["logistic"].problem()
    problem._chunk = 16
    calls: list[Any] = []
    result = noise(problem, progress=lambda *call: calls.append(call))
    assert {stage for stage, _, _ in calls} == {"noise"}
    done = [d for _, d, _ in calls]
    assert done == sorted(done)
    assert calls[-1] == ("noise", problem.n, problem.n)
    checked = 4 / problem.n if engine == "vmap" else 0.0
    assert result.cost.passes == pytest.approx(1 + checked)
    assert problem.passes.total == pytest.approx(1 + checked)
    assert result.cost.seconds > 0


def test_counted_passes_are_those_that_a_hook_saw(engine: str) -> None:
    """Samples that went forward, over n; under vmap the hook sees one call for a chunk, so the loss counts there."""
    model, samples, loss = BY_NAME["gpt2"].parts()  # vmap fails here: the check of both engines is paid, then the loop
    problem = Problem(model, samples, loss)
    seen = 0

    def count(_: nn.Module, args: Any, kwargs: Any, __: Any) -> None:
        nonlocal seen
        seen += len(kwargs["input_ids"])

    handle = model.register_forward_hook(count, with_kwargs=True)
    try:
        result = noise(problem)
    finally:
        handle.remove()
    assert result.cost.passes == pytest.approx((seen + (2 if engine == "vmap" else 0)) / problem.n)
