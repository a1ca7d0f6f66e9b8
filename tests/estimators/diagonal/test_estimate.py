"""The Hessian's diagonal against the explicit one, and how often its intervals cover."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from sklearn.datasets import load_digits
from torch import Tensor, nn

import estimators.diagonal.estimate as module
from estimators import InputError, Problem, hessian_diagonal, rotated, smoothness
from estimators.curvature.lanczos import DELTA, Ritz, lanczos
from estimators.diagonal.deflation import deflation
from estimators.diagonal.estimate import absolute_sum, shrunk
from estimators.diagonal.gauss_newton import can_split, rest, root, squares
from estimators.diagonal.probe_plan import PILOT_FROM, choose, colourings, groups_of_tensors
from estimators.diagonal.probes import Estimate, Plan, Purse, Running, carry_out, signs
from estimators.numbers.t_intervals import mean_interval, sum_interval
from estimators.numbers.vectors import random_start
from estimators.task import losses
from estimators.task.products import dense_hessian, hessian
from tests import oracles
from tests.markers import marked
from tests.problems import BY_NAME, SMALL, Case, mlp, orthogonal, quadratic, symmetric
from tests.statistics import ALPHA, assert_calibrated, assert_covers, fewest

REPEATS = 300


@pytest.fixture(autouse=True)
def probes_on_plain_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random probes where a plain network's diagonal would be worked out layer by layer."""
    monkeypatch.setattr(module, "plain_network", lambda problem: None)


def _formed(problem: Problem) -> Problem:
    """With its Hessian formed, products cost a matrix product."""
    dense_hessian(problem)
    return problem


# -- exact -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_exact(case: Case) -> None:
    problem = case.problem()
    result = hessian_diagonal(problem)
    wanted = np.diag(oracles.hessian(case.parts()))
    scale = np.abs(wanted).max()
    for vectors in (result.vectors, result.lower, result.upper):
        np.testing.assert_allclose(problem.flatten(vectors).numpy(), wanted, atol=1e-12 * scale)
    assert float(problem.flatten(result.standard_error).abs().max()) == 0
    assert result.trace == pytest.approx(wanted.sum(), abs=1e-11 * scale)
    assert result.abs_sum == pytest.approx(np.abs(wanted).sum())
    assert result.trace_interval == (result.trace, result.trace)
    assert result.abs_sum_interval == (result.abs_sum, result.abs_sum)
    assert result.exact is True
    assert result.probes is None
    assert result.why["probes"]
    assert result.negative_fraction == pytest.approx((wanted < -1e-15).mean())
    assert result.tensors is not None
    assert [row["name"] for row in result.tensors] == list(problem.names)
    assert sum(row["trace"] for row in result.tensors) == pytest.approx(result.trace, abs=1e-11 * scale)
    assert sum(row["abs_sum"] for row in result.tensors) == pytest.approx(result.abs_sum)


# -- by probes -------------------------------------------------------------------------------------


def test_an_axis_aligned_hessian_needs_one_probe() -> None:
    """z * Hz is the diagonal itself: no error to report."""
    case = BY_NAME["axis-aligned"]
    problem = case.problem(forms_hessian=False)
    result = hessian_diagonal(problem, probes=4)
    assert case.hessian is not None
    torch.testing.assert_close(problem.flatten(result.vectors), case.hessian.diagonal(), rtol=1e-13, atol=0)
    assert float(problem.flatten(result.standard_error).abs().max()) < 1e-12
    assert result.abs_sum == pytest.approx(float(case.hessian.diagonal().sum()))
    assert result.exact is False
    assert result.probes == 4
    assert "probes" not in result.why


def test_the_mean_over_many_probes_is_the_diagonal() -> None:
    problem = _formed(BY_NAME["mlp"].problem(forms_hessian=False))
    wanted = np.diag(oracles.hessian(BY_NAME["mlp"].parts()))
    result = hessian_diagonal(problem, probes=1500)
    error = problem.flatten(result.standard_error).numpy()
    off = np.abs(problem.flatten(result.vectors).numpy() - wanted)
    assert float((off / np.maximum(error, 1e-15)).max()) < 5
    assert error.max() < 0.05


def test_standard_errors() -> None:
    """Var(z_j (Hz)_j) = sum of H_jk^2 over k != j, for independent signs."""
    matrix = symmetric(12, 7)
    problem = _formed(Problem(*quadratic(matrix), forms_hessian=False))
    results = [hessian_diagonal(problem, probes=20, seed=seed) for seed in range(REPEATS)]
    found = torch.stack([problem.flatten(r.standard_error).square() for r in results]).mean(0)
    torch.testing.assert_close(
        found, (matrix.square().sum(1) - matrix.diagonal().square()) / 20, rtol=5 / math.sqrt(REPEATS), atol=0
    )


@pytest.mark.parametrize(
    ("name", "probes", "steps"),
    [
        ("indefinite", 16, 0),
        ("rotated", 32, 3),
        *marked("slow", [("mlp", 32, 0), ("mlp", 48, 8), ("cnn-batchnorm", 32, 0)], []),
    ],
)
def test_coverage(name: str, probes: int, steps: int) -> None:
    """No bias; trace, each coordinate and the sum of absolute values covered at least as often as claimed."""
    problem = _formed(BY_NAME[name].problem(forms_hessian=False))
    wanted = np.diag(oracles.hessian(BY_NAME[name].parts()))
    trace = total = 0
    each = np.zeros(problem.d)
    values = []
    slack = 1e-11 * np.abs(wanted).max()
    for seed in range(REPEATS):
        krylov = _lanczos(problem, steps, seed) if steps else None
        result = hessian_diagonal(problem, probes=probes, krylov=krylov, seed=seed)
        assert result.trace_interval is not None
        assert result.abs_sum_interval is not None
        values.append(problem.flatten(result.vectors).numpy())
        trace += result.trace_interval[0] - slack <= wanted.sum() <= result.trace_interval[1] + slack
        total += result.abs_sum_interval[0] - slack <= np.abs(wanted).sum() <= result.abs_sum_interval[1] + slack
        lower, upper = problem.flatten(result.lower).numpy(), problem.flatten(result.upper).numpy()
        each += (lower <= wanted + slack) & (wanted - slack <= upper)
    _assert_unbiased(np.stack(values), wanted)
    assert_covers(trace, REPEATS, 0.94)
    assert_covers(total, REPEATS, 0.95)
    # A coordinate that leans on one other takes few values, a mean of squares is skewed: of the worst of d 85%.
    assert each.min() >= binom.ppf(ALPHA / problem.d, REPEATS, 0.85)
    assert_covers(round(float(each.mean())), REPEATS, 0.94)


def test_the_interval_of_the_trace_is_no_wider_than_it_says() -> None:
    matrix = symmetric(40, 5)
    problem = Problem(*quadratic(matrix), forms_hessian=False)
    problem.formed_hessian = matrix
    hits = 0
    for seed in range(REPEATS):
        low, high = hessian_diagonal(problem, probes=20, seed=seed).trace_interval or (0.0, 0.0)
        hits += low <= float(matrix.trace()) <= high
    assert_calibrated(hits, REPEATS, 0.95)


@pytest.mark.parametrize(
    ("kind", "probes"),
    marked(
        "coverage",
        itertools.product(["rank one", "negative", "over a bulk", "one of each sign", "power 2"], [4, 8, 16, 23]),
        [("rank one", 8), ("one of each sign", 4), ("power 2", 23)],
    ),
)
def test_coverage_of_the_trace_where_few_eigenvalues_dominate(kind: str, probes: int) -> None:
    """Plain Hutchinson, against Student's t over the same probes."""
    d = 100
    values = torch.zeros(d).double()
    values[0] = -1 if kind == "negative" else 1
    if kind == "over a bulk":
        values += torch.linspace(0.5, 1, d).double() / d
    elif kind == "one of each sign":
        values[1] = -0.9
    elif kind == "power 2":
        values = torch.arange(1, d + 1).double() ** -2
    turn = orthogonal(d, 3)
    problem = Problem(*quadratic(turn @ torch.diag(values) @ turn.T), forms_hessian=False)
    _formed(problem)
    hits = plain = 0
    wanted = float(values.sum())
    for seed in range(REPEATS):
        low, high = hessian_diagonal(problem, probes=probes, seed=seed).trace_interval or (0.0, 0.0)
        hits += low <= wanted <= high
        generator = torch.Generator().manual_seed(seed)
        z = torch.stack([signs(problem, generator) for _ in range(probes // 4 * 4)])
        forms = ((z @ dense_hessian(problem)) * z).sum(1).tolist()
        t_low, t_high = mean_interval(forms)
        assert 0.5 * (low + high) == pytest.approx(0.5 * (t_low + t_high))
        plain += t_low <= wanted <= t_high
    assert_covers(hits, REPEATS, 0.95)
    if kind == "rank one" and probes in (8, 16):
        assert plain < fewest(REPEATS, 0.95)


@pytest.mark.parametrize(
    ("kind", "probes"),
    marked("coverage", [("rank-one", 16), ("hidden", 16), ("hidden", 64), ("negative", 32)], [("hidden", 16)]),
)
def test_coverage_of_the_absolute_sum_where_noise_hides_it(kind: str, probes: int) -> None:
    d = 150
    a = torch.randn(d, 1, generator=torch.Generator().manual_seed(8)).double()
    if kind == "rank-one":
        matrix = a @ a.T
    elif kind == "negative":
        matrix = -(a @ a.T)
    else:  # off-diagonal mass a hundred times the diagonal's, of both signs
        matrix = symmetric(d, 9)
        matrix.diagonal().mul_(0.01)
    problem = Problem(*quadratic(matrix), forms_hessian=False)
    problem.formed_hessian = matrix
    wanted = float(matrix.diagonal().abs().sum())
    hits = naive = 0
    for seed in range(REPEATS):
        result = hessian_diagonal(problem, probes=probes, seed=seed)
        assert result.abs_sum_interval is not None
        assert result.abs_sum is not None
        hits += result.abs_sum_interval[0] <= wanted <= result.abs_sum_interval[1]
        assert result.abs_sum_interval[0] <= result.abs_sum <= result.abs_sum_interval[1]
        # The control: the spread of the noisy sum around itself, which forgets its bias.
        raw = float(problem.flatten(result.vectors).abs().sum())
        half = 2 * float(problem.flatten(result.standard_error).norm())
        naive += raw - half <= wanted <= raw + half
    assert_covers(hits, REPEATS, 0.95)
    if kind == "hidden":
        assert naive < fewest(REPEATS, 0.95)


def test_running_moments_do_not_cancel() -> None:
    """Probes that differ in the ninth digit."""
    running = Running(torch.zeros(3, dtype=torch.float64))
    deviations = torch.randn(40, 3, generator=torch.Generator().manual_seed(1)).double()
    for row in deviations:
        running.add(1e9 + row)
    torch.testing.assert_close(running.variance, deviations.var(0) / 40, rtol=1e-5, atol=0)
    groups = 1e9 + deviations[:4]
    value, (low, high) = absolute_sum(groups, running.variance.sqrt(), 1.0)
    assert low <= value <= high


# -- what is known and what is split off -----------------------------------------------------------


def _lanczos(problem: Problem, steps: int, seed: int = 0, matrix: Tensor | None = None) -> Ritz:
    """A kept run on the formed Hessian."""
    generator = torch.Generator().manual_seed(seed + 1000)
    dense = dense_hessian(problem) if matrix is None else matrix
    start = random_start(problem.d, generator, dense)
    return lanczos(lambda block: dense @ block, start, problem.d, steps, DELTA, generator, keep=True)


def _assert_unbiased(values: np.ndarray, wanted: np.ndarray) -> None:
    """The mean of the rows lies within its standard error of what is wanted, everywhere."""
    away = np.abs(values.mean(0) - wanted)
    error = values.std(0, ddof=1) / math.sqrt(len(values))
    assert np.all(away <= -norm.ppf(ALPHA / wanted.size) * error + 1e-11 * np.abs(wanted).max())


@pytest.mark.parametrize(("rank", "steps"), [(40, 7), (2, 7), (0, 3), (40, 40)])
def test_the_known_part_and_the_remainder_add_up(rank: int, steps: int) -> None:
    """Also where Krylov spaces were closed by low rank, and where the basis is complete."""
    d = 40
    vectors = orthogonal(d)[:, :rank]
    matrix = vectors @ torch.diag(torch.linspace(-3, 5, rank).double()) @ vectors.T
    problem = Problem(*quadratic(matrix))
    known = deflation(_lanczos(problem, steps, matrix=matrix), d)
    left = torch.eye(d).double() - known.basis.T @ known.basis
    remainder = left @ matrix @ left
    torch.testing.assert_close(known.diagonal() + remainder.diagonal(), matrix.diagonal(), rtol=0, atol=1e-11)
    z = torch.randn(d, generator=torch.Generator().manual_seed(2)).double()
    torch.testing.assert_close(known.remainder(z, matrix @ z), remainder @ z, rtol=0, atol=1e-11)
    torch.testing.assert_close(known.complement(torch.stack([z, 2 * z])), torch.stack([left @ z, 2 * left @ z]))


def test_a_lanczos_run_without_basis_or_of_other_size_is_refused() -> None:
    problem = BY_NAME["mlp"].problem()
    run = _lanczos(problem, 5)
    with pytest.raises(InputError, match="did not keep its basis"):
        deflation(replace(run, basis=None), problem.d)
    with pytest.raises(InputError, match="43 coordinates, the problem 44"):
        deflation(run, 44)


@pytest.mark.parametrize("rotate", marked("sweep", [False, True], [False]), ids=["", "rotated"])
@pytest.mark.parametrize("name", ["logistic", "softmax", "regression", "mlp", "cnn-batchnorm", "unseen-token", "gpt2"])
def test_gauss_newton_and_rest_add_up_to_the_hessian(name: str, rotate: bool) -> None:
    """diag(J'SJ) + diag R = diag H, for every named loss, with labels shifted, padded and left out.

    Independent signs z have E[(a'z)^2] = sum of a_k^2: the mean of a draw is the sum over unit vectors in place of z.
    """
    problem = rotated(BY_NAME[name].problem(), seed=1) if rotate else BY_NAME[name].problem()
    assert can_split(problem)
    targets = problem.samples["labels"] if isinstance(problem.samples, dict) else problem.samples[1]
    leaves = {key: p.detach().requires_grad_() for key, p in problem.parameters.items()}
    total = torch.zeros(problem.d).double()
    with problem.measuring():
        values = losses.prediction(problem.output(leaves, problem.samples))
        for unit in torch.eye(values.numel()).double():
            u = root(problem, values.detach(), targets, unit.reshape(values.shape))
            pull = torch.autograd.grad(values, list(leaves.values()), u, retain_graph=True)
            total += torch.cat([part.reshape(-1) for part in pull]).square() / problem.n
    chosen = torch.randperm(problem.d, generator=torch.Generator().manual_seed(6))[:20]
    units = torch.eye(problem.d).double()[:, chosen]
    with hessian(problem) as whole, hessian(rest(problem)) as left:
        wanted, beside = (product(units)[chosen, torch.arange(len(chosen))] for product in (whole, left))
    torch.testing.assert_close(total[chosen] + beside, wanted, rtol=0, atol=1e-11 * float(wanted.abs().max()))


def test_draws_have_the_mean_and_a_spread_of_squares() -> None:
    """Each is a mean over 16 parts of the samples: its relative standard deviation is at most sqrt 2, often less."""
    problem = BY_NAME["mlp"].problem()
    wanted = (dense_hessian(problem) - dense_hessian(rest(problem))).diagonal()
    generator = torch.Generator().manual_seed(3)
    with squares(problem) as draw:
        drawn = torch.cat([draw(generator, number) for number in (1, 2, 7) * 40])
    _assert_unbiased(drawn.numpy(), wanted.numpy())
    assert float((drawn.std(0) / wanted).max()) < math.sqrt(2)
    assert float((drawn.std(0) / wanted).median()) < 0.5


class Looked(torch.autograd.Function):
    """sin, whose backward looks at a number of the gradient: no several at once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        assert float(gradient.detach().norm()) < float("inf")
        return gradient * x.cos()


class Sine(nn.Module):
    def __init__(self, looked: bool) -> None:
        super().__init__()
        self.inner, self.outer, self.looked = nn.Linear(3, 5), nn.Linear(5, 4), looked
        self.sine: Any = Looked.apply

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x)
        outputs: Tensor = self.outer(self.sine(hidden) if self.looked else hidden.sin())
        return outputs


def test_draws_come_alone_where_they_cannot_come_together() -> None:
    """The same bits one after another, together, and with an operation that refuses to be run for several."""
    torch.manual_seed(3)
    model = Sine(looked=True).double()
    samples = torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 4
    drawn = []
    for looked, numbers in ((True, (5,)), (False, (5,)), (False, (1, 1, 1, 1, 1))):
        model.looked = looked
        with squares(Problem(model, samples)) as draw:
            generator = torch.Generator().manual_seed(3)
            drawn.append(torch.cat([draw(generator, number) for number in numbers]))
    torch.testing.assert_close(drawn[0], drawn[2], rtol=1e-13, atol=0)
    torch.testing.assert_close(drawn[1], drawn[2], rtol=1e-13, atol=0)


def _diagonal(problem: Problem) -> Tensor:
    return dense_hessian(problem).diagonal()


def test_squares_of_projected_rows() -> None:
    """E[(C J'u)^2] = diag(C J'SJ C)."""
    problem = BY_NAME["mlp"].problem()
    known = deflation(_lanczos(problem, 6), problem.d)
    left = torch.eye(problem.d).double() - known.basis.T @ known.basis
    wanted = left @ (dense_hessian(problem) - dense_hessian(rest(problem))) @ left
    generator = torch.Generator().manual_seed(4)
    with squares(problem, known.complement) as draw:
        drawn = torch.cat([draw(generator, number) for number in (1, 2, 7) * 40])
    _assert_unbiased(drawn.numpy(), wanted.diagonal().numpy())


def test_a_loss_of_ones_own_is_not_split() -> None:
    assert not can_split(BY_NAME["rotated"].problem())


# -- the ways --------------------------------------------------------------------------------------


def _plans(problem: Problem) -> list[Plan]:
    known = deflation(_lanczos(problem, 8), problem.d)
    masks = groups_of_tensors(problem)
    return [
        Plan("plain", [None], [16]),
        Plan("coloured", masks, [12] * len(masks)),
        Plan("deflated", [None], [16], known=known),
        Plan("apart", masks, [8, 12][: len(masks)], draws=16),
        Plan("both", [None], [16], draws=16, known=known),
    ]


@pytest.mark.parametrize("way", marked("coverage", range(5), [1, 4]))
def test_every_way_is_unbiased_and_covers(way: int) -> None:
    problem = _formed(BY_NAME["mlp"].problem())
    wanted = _diagonal(problem)
    plan = _plans(problem)[way]
    repeats = REPEATS // 4 if plan.draws else REPEATS
    values, covered, trace = [], 0.0, 0
    for seed in range(repeats):
        found = _carried_out(problem, plan, seed)
        value, error, half = module._bounds(found)
        values.append(value)
        covered += float(((value - wanted).abs() <= half + 1e-12).double().mean())
        mean, (low, high), _ = sum_interval(found.traces, found.known_trace)
        assert mean == pytest.approx(float(value.sum()))
        trace += low <= float(wanted.sum()) <= high
    _assert_unbiased(torch.stack(values).numpy(), wanted.numpy())
    spread = torch.stack(values).var(0).sum()
    assert float(error.square().sum()) == pytest.approx(float(spread), rel=0.8)
    assert_covers(trace, repeats, 0.94)
    assert_covers(int(covered), repeats, 0.94)


def _carried_out(problem: Problem, plan: Plan, seed: int) -> Estimate:
    return carry_out(problem, plan, Purse(64, lambda _: None), torch.Generator().manual_seed(seed))


def test_colours_of_least_coupling_are_merged_first() -> None:
    coupling = np.array([[4.0, 9.0, 0.0], [9.0, 4.0, 1.0], [0.0, 1.0, 4.0]])
    assert [sorted(map(sorted, colours)) for colours in colourings(coupling)] == [
        [[0], [1], [2]],
        [[0, 2], [1]],
        [[0, 1, 2]],
    ]


def test_groups_are_modules_or_everything() -> None:
    few = BY_NAME["mlp"].problem()
    masks = groups_of_tensors(few)
    assert [int(mask.sum()) for mask in masks] == [25, 18]
    many = groups_of_tensors(BY_NAME["gpt2"].problem())
    assert [bool(mask.all()) for mask in many] == [True]


@pytest.mark.parametrize(
    ("activation", "trained", "steps", "wanted"),
    [("relu", False, 12, "apart"), ("tanh", False, 12, "apart"), ("tanh", True, 12, "both"), ("tanh", True, 80, None)],
)
def test_the_way_that_the_pilot_chooses(activation: str, trained: bool, steps: int, wanted: str | None) -> None:
    """Between tensors at the start, in few directions after training; after 80 steps two ways are as good."""
    problem = _case_of_digits(activation, trained)
    known = deflation(_run(problem, steps), problem.d)
    plan = choose(problem, Purse(64, lambda _: None), known, torch.Generator().manual_seed(0))
    assert plan.name == wanted if wanted else plan.name in ("both", "deflated")
    assert all(count % 4 == 0 and count >= 8 for count in plan.counts)


def test_a_diagonal_in_few_directions_is_deflated_without_a_run_from_elsewhere() -> None:
    d = 200
    low = orthogonal(d)[:, :4]
    matrix = low @ torch.diag(torch.tensor([50.0, -20.0, 10.0, 5.0]).double()) @ low.T + 0.001 * symmetric(d, 1)
    problem = Problem(*quadratic(matrix))
    problem.formed_hessian = matrix
    plan = choose(problem, Purse(64, lambda _: None), None, torch.Generator().manual_seed(0))
    assert plan.name == "deflated"


def test_the_cost_stays_within_the_products_allowed() -> None:
    calls: list[tuple[str, float, float]] = []

    def report(*call: Any) -> None:
        calls.append(call)

    problem = _case_of_digits("tanh", False)
    krylov = _run(problem, 12)
    for probes, run in ((5, None), (PILOT_FROM, None), (PILOT_FROM, krylov), (64, None), (64, krylov)):
        problem.passes.total = 0.0
        calls.clear()
        result = hessian_diagonal(problem, probes=probes, krylov=run, progress=report)
        assert result.cost.passes <= 2 * probes + 1 + 1e-9
        assert result.probes is not None
        assert 0.75 * probes <= result.probes <= probes
        assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
        assert calls[-1] == ("hessian_diagonal", probes, probes)


# -- how much better than plain Hutchinson ---------------------------------------------------------


def _case_of_digits(activation: str, trained: bool) -> Problem:
    """A 64-20-20-10 network on 256 digits, at its start or after 150 full steps of Adam."""
    x, y = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(x[:256] / 16), torch.tensor(y[:256])
    torch.manual_seed(0)
    nonlinear = {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]
    model = nn.Sequential(nn.Linear(64, 20), nonlinear(), nn.Linear(20, 20), nonlinear(), nn.Linear(20, 10)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150 if trained else 0):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Problem(model, (inputs, targets), "cross-entropy", forms_hessian=False)


def _run(problem: Problem, steps: int) -> Ritz:
    generator = torch.Generator().manual_seed(9)
    start = random_start(problem.d, generator, next(iter(problem.parameters.values())))
    with hessian(problem) as product:
        return lanczos(product, start, problem.d, steps, DELTA, generator, keep=True)


@pytest.mark.parametrize("steps", [0, 12])
@pytest.mark.parametrize("trained", [False, True], ids=["start", "trained"])
@pytest.mark.parametrize("activation", marked("coverage", ["tanh", "relu"], ["tanh"]))
def test_at_most_half_the_error_of_plain_hutchinson(activation: str, trained: bool, steps: int) -> None:
    """Root mean square over seeds against sqrt(sum of H_jk^2 over j != k, divided by 64), which is exact."""
    problem = _case_of_digits(activation, trained)
    krylov = _run(problem, steps) if steps else None
    results = [hessian_diagonal(problem, krylov=krylov, seed=seed) for seed in range(2)]
    matrix = dense_hessian(problem)
    wanted = matrix.diagonal()
    plain = float((matrix.square().sum() - wanted.square().sum()) / 64)
    squared = [float((problem.flatten(r.vectors) - wanted).square().sum()) for r in results]
    assert max(squared) <= 0.25 * plain
    claimed = sum(float(problem.flatten(r.standard_error).square().sum()) for r in results) / len(results)
    assert 0.25 < claimed * len(squared) / sum(squared) < 4  # a few coordinates may make up most of it


def test_the_same_seed_gives_the_same_bits() -> None:
    problem = BY_NAME["gpt2"].problem()
    krylov = _run(problem, 6)
    one, same, other = (hessian_diagonal(problem, probes=32, krylov=krylov, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(problem.flatten(one.vectors), problem.flatten(same.vectors))
    assert one.trace_interval == same.trace_interval
    assert not torch.equal(problem.flatten(one.vectors), problem.flatten(other.vectors))


# -- a value that gives up unbiasedness ------------------------------------------------------------


def test_shrinking_leaves_what_is_resolved_and_drops_noise() -> None:
    d = 3000
    noise = torch.randn(d, generator=torch.Generator().manual_seed(5)).double()
    signal = torch.cat([torch.full((1000,), 100.0), torch.zeros(1000), torch.full((1000,), 1.0)]).double()
    anchor = torch.ones(d).double()
    zero = torch.zeros(d).double()
    found = Estimate(zero[None], anchor, torch.ones(d).double(), zero, None, 0, [], 0.0, 0.0)
    value = shrunk(anchor + signal + noise, found, [1000, 1000, 1000])
    away = [
        float((part - 1 - wanted).square().mean())
        for part, wanted in zip(torch.split(value, 1000), (100, 0, 1), strict=True)
    ]
    assert away[0] == pytest.approx(1, rel=0.2)
    assert away[1] < 0.05
    assert away[2] == pytest.approx(0.5, rel=0.2)


def test_shrinking_moves_the_value_alone() -> None:
    problem = _formed(BY_NAME["mlp"].problem(forms_hessian=False))
    plain, moved = (hessian_diagonal(problem, probes=32, shrink=shrink) for shrink in (False, True))
    assert not torch.equal(problem.flatten(plain.vectors), problem.flatten(moved.vectors))
    for key in ("lower", "upper", "standard_error"):
        assert torch.equal(problem.flatten(getattr(plain, key)), problem.flatten(getattr(moved, key)))
    assert (plain.trace, plain.abs_sum_interval, plain.tensors) == (moved.trace, moved.abs_sum_interval, moved.tensors)


# -- bounds cut by the smoothness vector -----------------------------------------------------------


def test_bounds_are_cut_to_the_smoothness_vector() -> None:
    problem = _formed(BY_NAME["mlp"].problem(forms_hessian=False))
    bound = smoothness(problem)
    limit = problem.flatten(bound.vectors)
    plain = hessian_diagonal(problem, probes=8)
    cut = hessian_diagonal(problem, probes=8, smoothness=bound)
    low, high, value = (problem.flatten(v) for v in (cut.lower, cut.upper, cut.vectors))
    assert bool((problem.flatten(plain.upper) > limit).any())  # there was something to cut
    assert bool(((-limit <= low) & (low <= value) & (value <= high) & (high <= limit)).all())
    assert torch.equal(high, problem.flatten(plain.upper).clamp(-limit, limit))
    assert torch.equal(low, problem.flatten(plain.lower).clamp(-limit, limit))
    assert cut.abs_sum_interval is not None
    assert bound.l1_upper is not None
    assert cut.abs_sum_interval[1] <= bound.l1_upper


def test_an_interval_beyond_the_smoothness_vector_becomes_its_nearer_end() -> None:
    problem = _formed(BY_NAME["axis-aligned"].problem(forms_hessian=False))
    bound = smoothness(problem)
    tiny = {name: 0.001 * v for name, v in bound.vectors.items()}
    cut = hessian_diagonal(problem, probes=4, smoothness=replace(bound, vectors=tiny))
    for vectors in (cut.lower, cut.upper, cut.vectors):
        torch.testing.assert_close(problem.flatten(vectors), problem.flatten(tiny))


def test_a_smoothness_result_of_other_samples_is_refused() -> None:
    problem = BY_NAME["mlp"].problem()
    other = smoothness(problem.subset(torch.arange(5)))
    with pytest.raises(InputError, match="another problem"):
        hessian_diagonal(problem, smoothness=other)
    with pytest.raises(InputError, match="another problem"):
        hessian_diagonal(problem, smoothness=smoothness(BY_NAME["softmax"].problem()))


# -- edges -----------------------------------------------------------------------------------------


def test_too_few_probes_are_refused() -> None:
    with pytest.raises(InputError, match="3 probes are too few"):
        hessian_diagonal(BY_NAME["mlp"].problem(forms_hessian=False), probes=3)


def test_a_zero_hessian() -> None:
    result = hessian_diagonal(Problem(*quadratic(torch.zeros(8, 8).double()), forms_hessian=False), probes=4)
    assert (result.trace, result.abs_sum, result.trace_interval, result.abs_sum_interval) == (0, 0, (0, 0), (0, 0))


def test_float32_keeps_the_value_between_its_bounds() -> None:
    model, samples, loss = mlp()
    problem = Problem(model.float(), samples, loss, forms_hessian=False)
    result = hessian_diagonal(problem, probes=8)
    low, value, high = (problem.flatten(v) for v in (result.lower, result.vectors, result.upper))
    assert low.dtype == torch.float32
    assert bool(((low <= value) & (value <= high)).all())


@pytest.mark.slow
def test_a_trained_language_model(data_folder: Path, models_folder: Path) -> None:
    """Noise beyond the diagonal's size: probes alone gain little, shrunk they leave a fraction of plain Hutchinson's.

    Held against exact e_j'He_j on a seeded sample of coordinates.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(models_folder / "shakespeare-gpt2")
    text = (data_folder / "tinyshakespeare.txt").read_bytes()
    start = len(text) * 9 // 10
    tokens = torch.tensor(list(text[start : start + 4 * 64])).reshape(4, 64)
    problem = Problem(model, {"input_ids": tokens, "labels": tokens})
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(problem.d, generator=generator)[:150]
    wanted, plain = torch.zeros(len(chosen)), 0.0
    with hessian(problem) as product:
        for k, j in enumerate(chosen):
            unit = torch.zeros(problem.d, 1)
            unit[j] = 1
            wanted[k] = product(unit)[j, 0]
        for _ in range(4):
            image = product(signs(problem, generator)[:, None])
            plain += float(image[chosen].double().square().sum()) / 4 / 64
    result = hessian_diagonal(problem, shrink=True)
    error = float((problem.flatten(result.vectors)[chosen] - wanted).double().square().sum())
    assert error <= 0.1 * plain
    low, high = (problem.flatten(v)[chosen] for v in (result.lower, result.upper))
    # Coordinates of a row share probes: the count varies more than a binomial one.
    assert int(((low <= wanted) & (wanted <= high)).sum()) >= 0.85 * len(chosen)
