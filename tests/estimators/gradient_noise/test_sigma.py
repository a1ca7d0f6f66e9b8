"""Gradient noise against one-sample-at-a-time gradients, its edge cases, and what a batch does to it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from estimators import InputError, Problem, noise
from estimators.gradient_noise import draw
from estimators.numbers import thinning
from estimators.numbers.moments import Moments, moments_of_rows
from estimators.per_sample import engines, gradients, layer_rules, row_places
from estimators.per_sample.gradients import gradient_moments, gradient_rows, grouped_moments
from estimators.per_sample.parameter_uses import Unfit
from tests import oracles, rounding
from tests.problems import BY_NAME, CASES, Case, Parts, Scores, quadratic, symmetric, value

ENGINES = ("rules", "vmap", "loop")


def use(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine alone, as far as the model lets it run."""

    def no_rules(*_: Any) -> Any:
        raise Unfit("told not to")

    if engine != "rules":
        monkeypatch.setattr(layer_rules, "survey", no_rules)
    monkeypatch.setattr(gradients, "VMAP_LIMIT", 0 if engine == "loop" else 1 << 30)
    monkeypatch.setattr(engines, "LOOP_GROUP", 4)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engines in turn; small groups, so that several are merged."""
    use(request.param, monkeypatch)
    return str(request.param)


@pytest.fixture
def no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients of single samples are not kept."""
    monkeypatch.setattr(draw, "KEPT", 0)


# -- against the oracle ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_field(case: Case, engine: str) -> None:
    problem = case.problem()
    problem.chunk = 7
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
    assert set(result.why) <= {"token_deciles", "batch_scaling", "tail_index", "rare_rows"}
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
    path = 9 + 9 + 4 + 8 + 3  # a convolution, norm and pool, the linear layer, the loss
    allowed = rounding.bound(torch.float32, 2 * path + 16 * 12)  # 16 places of 12 samples
    assert narrow.l1 == pytest.approx(wide.l1, rel=allowed)
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
    found = []
    for name in ENGINES:
        use(name, monkeypatch)
        moments, notes = gradient_moments(problem)
        assert notes == () or name == "loop"
        found.append(moments)
    for other in found[1:]:
        torch.testing.assert_close(other.squares, found[0].squares, rtol=1e-11, atol=1e-15)
        torch.testing.assert_close(other.mean, found[0].mean, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_and_their_moments(case: Case, engine: str) -> None:
    problem = case.problem()
    problem.chunk = 7
    rows, moments, _ = gradient_rows(problem)
    wanted = oracles.per_sample_gradients(case.parts())
    np.testing.assert_allclose(rows.numpy(), wanted, rtol=1e-12, atol=1e-14)
    assert moments.count == problem.n
    np.testing.assert_allclose(moments.mean.numpy(), wanted.mean(0), rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(moments.squares.numpy(), wanted.var(0) * problem.n, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_of_coarse_numbers_are_kept_in_float32(dtype: torch.dtype) -> None:
    problem = Problem(nn.Linear(4, 3).to(dtype), (torch.randn(40, 4), torch.arange(40) % 3))
    rows, moments, _ = gradient_rows(problem)
    assert (rows.dtype, moments.squares.dtype) == (torch.float32, torch.float64)
    assert rows.shape == (40, 15)


def test_memory_does_not_grow_with_the_samples(monkeypatch: pytest.MonkeyPatch, no_rows: None) -> None:
    """No chunk of rows holds more numbers than ROW_NUMBERS."""
    use("vmap", monkeypatch)
    monkeypatch.setattr(engines, "ROW_NUMBERS", 100)
    seen: list[int] = []

    def watched(rows: Tensor) -> Moments:
        seen.append(rows.numel())
        return moments_of_rows(rows)

    monkeypatch.setattr(engines, "moments_of_rows", watched)
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


def test_the_loop_takes_over_where_vmap_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    use("vmap", monkeypatch)
    _loop_takes_over("RuntimeError: vmap")


def test_the_loop_takes_over_where_vmap_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    use("vmap", monkeypatch)

    def wrong(problem: Problem, samples: Any) -> Tensor:
        rows = torch.stack([engines.loop_row(problem, i) for i in (0, problem.n - 1)])
        rows[1] *= 1 + 1e-6
        return rows

    monkeypatch.setattr(engines, "vmap_rows", wrong)
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


def test_a_group_of_one_sample_that_is_not_finite_is_refused(engine: str) -> None:
    """Its squares are 0 in the loop: the mean shows it."""
    x = torch.ones(12, 3)
    x[9] = 0
    problem = Problem(Scores(3), (x, torch.zeros(12)), lambda output, _: (output * 0 + 1) * output.abs().sqrt())
    with pytest.raises(InputError, match="not finite") as caught:
        grouped_moments(problem, 12)
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
    assert getattr(noise(_shifted(1.0), rows=10**6), key) == pytest.approx(1.0, rel=0.05)
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
def test_too_few_samples(n: int, codes: list[str]) -> None:
    found = noise(Problem(*quadratic(symmetric(8), n=n))).warnings
    assert [w.code for w in found] == codes
    assert all(w.severity == "warning" and str(n) in w.found for w in found)


# -- a draw ----------------------------------------------------------------------------------------


def _gaussian(n: int = 64, d: int = 12, mean: float = 0.7, seed: int = 5) -> Problem:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) * torch.linspace(0.5, 2, d) + mean
    return Problem(Scores(d).double(), (x, torch.zeros(n)), value)


def test_a_draw_speaks_for_its_data() -> None:
    problem = _gaussian()
    draw, plain = noise(problem, rows=5000), noise(problem)
    assert draw.exact is False
    for key in ("l1", "l2", "density", "noise_scale_l1", "noise_scale_l2"):
        low, high = getattr(draw, f"{key}_interval")
        assert low < getattr(draw, key) < high
    assert draw.l1 is not None
    assert draw.l2 is not None
    assert draw.tensors is not None
    assert plain.l1 is not None
    # Bessel's correction alone is 1/(2 n) of sigma; the bias of the root adds about 1/(4 n).
    assert draw.l1 == pytest.approx(plain.l1 * (1 + 0.75 / 64), rel=3e-3)
    assert draw.density == pytest.approx(draw.l1 / (math.sqrt(problem.d) * draw.l2))
    assert draw.effective_dimension == pytest.approx((draw.l1 / draw.l2) ** 2)
    assert sum(row["l1"] for row in draw.tensors) == pytest.approx(draw.l1)
    assert draw.why.keys() <= {"token_deciles"}
    assert "heavy-tail" not in [finding.code for finding in draw.warnings]


def test_groups_give_what_rows_give(no_rows: None) -> None:
    problem = _gaussian(40)
    by_group = noise(problem, rows=500)
    assert by_group.cost.passes == pytest.approx(1 + 4 / 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "KEPT", 1 << 20)
        by_row = noise(problem, rows=500)
    for key in ("l1", "l2", "density", "noise_scale_l1", "noise_scale_l2"):
        assert getattr(by_group, key) == pytest.approx(getattr(by_row, key), rel=1e-9)
    assert by_group.l2_interval == pytest.approx(by_row.l2_interval, rel=1e-6)
    torch.testing.assert_close(by_group.vectors["w"], by_row.vectors["w"])
    for key in ("tail_index", "batch_scaling"):
        assert getattr(by_group, key) is None
        assert "extra_passes" in by_group.why[key]
        assert getattr(by_row, key) is not None


def test_groups_at_some_coordinates(monkeypatch: pytest.MonkeyPatch, no_rows: None) -> None:
    """The sums of the draw are those of all coordinates; what groups show of them comes from some."""
    x = (torch.randn(60, 400) + 0.5) * torch.randn(400).exp()
    problem = Problem(Scores(400), (x, torch.zeros(60)), lambda output, _: output)
    everywhere = noise(problem, rows=500)
    monkeypatch.setattr(thinning, "WHOLE", 8)
    monkeypatch.setattr(draw, "MOST", 100)
    some = noise(problem, rows=500)
    assert some.cost.passes == pytest.approx(everywhere.cost.passes)
    torch.testing.assert_close(some.vectors["w"], everywhere.vectors["w"])
    assert some.l1_interval != everywhere.l1_interval
    for key, error in (("l1", 0.02), ("l2", 0.02), ("density", 0.02), ("noise_scale_l1", 0.1), ("noise_scale_l2", 0.1)):
        assert getattr(some, key) == pytest.approx(getattr(everywhere, key), rel=error), key
        (low, high), (wanted_low, wanted_high) = (getattr(each, f"{key}_interval") for each in (some, everywhere))
        assert (low, high) == (pytest.approx(wanted_low, rel=0.2), pytest.approx(wanted_high, rel=0.2)), key


def test_noise_beside_the_coordinates_of_groups(monkeypatch: pytest.MonkeyPatch, no_rows: None) -> None:
    x = torch.zeros(60, 400)
    x[:, 7] = torch.randn(60)
    monkeypatch.setattr(thinning, "WHOLE", 1)
    monkeypatch.setattr(draw, "MOST", 2)
    found = noise(Problem(Scores(400), (x, torch.zeros(60)), lambda output, _: output), rows=500)
    assert found.l1_interval is None
    assert "the 2 coordinates that were drawn of 400 miss the noise" in found.why["l1_interval"]


def test_seven_samples_have_no_interval() -> None:
    result = noise(_gaussian(7), rows=500)
    assert result.l1 is not None
    assert result.l1_interval is None
    assert "7 samples are too few" in result.why["l1_interval"]


def test_a_sample_of_a_draw_is_named_by_its_place(no_rows: None) -> None:
    x = torch.ones(12, 3)
    x[9] = 0
    problem = Problem(Scores(3), (x, torch.zeros(12)), lambda output, _: (output * 0 + 1) * output.abs().sqrt())
    with pytest.raises(InputError, match="not finite") as caught:
        noise(problem, rows=500)
    assert caught.value.where == "sample 9, w"


def test_heavy_tails_are_null_with_their_finding() -> None:
    x = torch.randn(200, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x / torch.randn(200, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)  # Cauchy
    result = noise(Problem(Scores(10).double(), (x, torch.zeros(200)), value), rows=10**5)
    (finding,) = result.warnings
    assert (finding.code, finding.severity) == ("heavy-tail", "warning")
    assert "--samples 800" in finding.action
    for key in ("l1", "l1_interval", "l2", "density", "density_interval", "sqrt_d_l2", "effective_dimension"):
        assert getattr(result, key) is None
        assert result.why[key].startswith("heavy tails")
    assert result.tensors is not None
    assert result.vectors
    assert result.tail_index is not None
    assert result.tail_index["median"] < 2


def test_a_wide_interval_says_how_many_samples_would_do() -> None:
    found = noise(_gaussian(20, 3), rows=10**5).warnings
    assert [finding.code for finding in found] == ["too-few-samples"]
    needed = int(found[0].action.split("--samples ")[1].rstrip("`"))
    assert 20 < needed < 500
    assert noise(_gaussian(2 * needed, 3), rows=10**5).warnings == ()


# -- batches and tails -----------------------------------------------------------------------------


def test_batches_follow_the_root_of_their_size() -> None:
    result = noise(_gaussian())
    assert result.batch_scaling is not None
    assert [row["batch_size"] for row in result.batch_scaling] == [1, 4, 16, 64]
    for row in result.batch_scaling:
        assert row["l1_predicted"] == pytest.approx((result.l1 or 0) / math.sqrt(row["batch_size"]))
        assert row["l1"] == pytest.approx(row["l1_predicted"], rel=0.1)
        assert row["l2"] == pytest.approx(row["l2_predicted"], rel=0.1)
        assert row["batches"] == 64


def test_batches_at_the_cost_of_passes(no_rows: None) -> None:
    problem = _gaussian(400)
    result = noise(problem, extra_passes=0.66)
    assert result.batch_scaling is not None
    assert result.tail_index is not None
    assert result.tail_index["samples"] == 64
    # What 64 samples leave of 264: four batches of 4 and of 16, two of 64.
    assert [(row["batch_size"], row["batches"]) for row in result.batch_scaling] == [(4, 4), (16, 4)]
    for row in result.batch_scaling:
        assert row["l2"] == pytest.approx(row["l2_predicted"], rel=0.5)
    assert result.cost.passes == pytest.approx(1 + 4 / 400 + (64 + 80) / 400)


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


def test_progress_and_passes(engine: str, no_rows: None) -> None:
    problem = BY_NAME["logistic"].problem()
    problem.chunk = 16
    opening = problem.passes.total
    calls: list[Any] = []
    result = noise(problem, progress=lambda *call: calls.append(call))
    assert {stage for stage, _, _ in calls} == {"noise"}
    done = [d for _, d, _ in calls]
    assert done == sorted(done)
    assert calls[-1] == ("noise", problem.n, problem.n)
    checked = {"rules": 4, "vmap": 6, "loop": 4}[engine] / problem.n  # the loop's two samples and those of each try
    assert result.cost.passes == pytest.approx(1 + checked)
    assert problem.passes.total == pytest.approx(opening + 1 + checked)
    assert result.cost.seconds > 0


def test_kept_rows_cost_no_further_pass(engine: str) -> None:
    problem = BY_NAME["logistic"].problem()
    problem.chunk = 16
    calls: list[Any] = []
    result = noise(problem, progress=lambda *call: calls.append(call))
    assert result.batch_scaling is not None
    assert result.tail_index is not None
    checked = {"rules": 4, "vmap": 6, "loop": 4}[engine] / problem.n
    assert result.cost.passes == pytest.approx(1 + checked)
    assert calls[-1] == ("noise", problem.n, problem.n)


def test_counted_passes_are_those_that_a_hook_saw(engine: str, no_rows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that went forward, over n; under vmap the hook sees one call for a chunk, so the loss counts there. The
    second backward pass of a chunk that proves its places, as the last one of two samples does, counts a third."""
    model, samples, loss = BY_NAME["gpt2"].parts()  # vmap fails here: the check of both engines is paid, then the loop
    problem = Problem(model, samples, loss)
    seen = proved = 0
    weights = row_places.weights

    def proving(samples: int, dtype: torch.dtype) -> Tensor:
        nonlocal proved
        proved += samples
        return weights(samples, dtype)

    monkeypatch.setattr(row_places, "weights", proving)

    def count(_: nn.Module, args: Any, kwargs: Any, __: Any) -> None:
        nonlocal seen
        seen += len(kwargs["input_ids"])

    handle = model.register_forward_hook(count, with_kwargs=True)
    try:
        result = noise(problem)
    finally:
        handle.remove()
    assert proved == (2 if engine == "rules" else 0)
    assert result.cost.passes == pytest.approx((seen + proved / 3 + (2 if engine == "vmap" else 0)) / problem.n)
