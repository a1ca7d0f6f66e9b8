"""Runs of a stack against the same runs alone, for every kind of plain model and loss; gradients by differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from diagnose.training.plain_layers import PlainLayers
from diagnose.training.running import Course, look, replay, run_alone
from diagnose.training.runs import Contender, Leg, RaceSettings
from diagnose.training.stacking import replays, run_stack, stackable
from diagnose.training.update_rules import RULES
from estimators.task.output_slopes import output_slopes
from estimators.task.problem import Problem
from estimators.task.rotation import rotated
from tests.diagnose.training.tasks import logistic, network, settings
from tests.markers import marked

N = 48


def _inputs(*shape: int) -> Tensor:
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(0))


def _classes(count: int) -> Tensor:
    return torch.randint(0, count, (N,), generator=torch.Generator().manual_seed(1))


def _seeded(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model


def softmax() -> Problem:
    return Problem(_seeded(nn.Linear(5, 4, bias=False)), (_inputs(5), _classes(4)))


def many_classes() -> Problem:
    """More than the loss takes in float64."""
    return Problem(_seeded(nn.Linear(5, 200)), (_inputs(5), _classes(200)))


def two_outputs() -> Problem:
    return Problem(
        _seeded(nn.Sequential(nn.Linear(5, 3), nn.SiLU(), nn.Linear(3, 2))), (_inputs(5), _inputs(2)), "squared"
    )


def one_output() -> Problem:
    """Targets without the dimension that outputs have."""
    return Problem(_seeded(nn.Sequential(nn.Linear(5, 1))), (_inputs(5), _inputs(1)[:, 0]), "squared")


def flattened() -> Problem:
    """Images first, and outputs (n,)."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Softplus(), nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)))
    return Problem(_seeded(layers), (_inputs(2, 3), 2.0 * _classes(2) - 1), "logistic")


def positions() -> Problem:
    """A linear layer on three positions of a sample, side by side afterwards; cross-entropy at each of two places."""
    layers = nn.Sequential(nn.Linear(4, 2), nn.GELU(), nn.Flatten(1), nn.Linear(6, 5))
    return Problem(_seeded(layers), (_inputs(3, 4), _classes(5)))


def sequence() -> Problem:
    """A class at each of three positions, some of them without a label."""
    targets = torch.randint(0, 4, (N, 3), generator=torch.Generator().manual_seed(3))
    targets[::2, 1] = -100
    return Problem(_seeded(nn.Sequential(nn.Linear(5, 4), nn.Identity())), (_inputs(3, 5), targets))


def frozen() -> Problem:
    """The first layer and a bias further on stay as they are."""
    layers = nn.Sequential(nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))
    _seeded(layers)
    for name in ("0.weight", "0.bias", "2.bias", "4.weight"):
        layers.get_parameter(name).requires_grad_(False)
    return Problem(layers, (_inputs(5), _classes(3)))


def tied() -> Problem:
    """One layer twice, and a third one with its weight."""
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    last.weight = first.weight
    return Problem(_seeded(nn.Sequential(first, nn.Tanh(), first, nn.Tanh(), last)), (_inputs(4), _classes(4)))


def in_place() -> Problem:
    """Forward works in place on its inputs."""
    return Problem(_seeded(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3))), (_inputs(5), _classes(3)))


def own_loss() -> Problem:
    """A loss that works in place, on targets of another shape than outputs, and that vmap could not take."""

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        each = output.mul_(targets[:, :2]).sum(1).square() + targets[:, 2]
        return each if each.sum().item() < math.inf else each * math.nan

    return Problem(_seeded(nn.Sequential(nn.Linear(5, 2), nn.Identity())), (_inputs(5), _inputs(3)), loss)


def turned() -> Problem:
    return rotated(network(), 5)


KINDS: dict[str, Callable[[], Problem]] = {
    make.__name__: make
    for make in (
        logistic, network, softmax, many_classes, two_outputs, one_output, flattened, positions, sequence, frozen, tied,
        in_place, own_loss, turned,
    )
}  # fmt: skip
RUNS = [(0.01, 0), (0.03, 1), (0.03, 0), (0.05, 2), (0.01, 1)]


def numbers(leg: Leg) -> list[float]:
    columns = [*leg.losses, *leg.gradient_l1, *leg.gradient_l2, leg.d_inf, leg.d_2]
    return [math.nan if value is None else value for value in columns]


def assert_the_same(
    problem: Problem,
    how: RaceSettings,
    runs: list[Contender],
    tolerance: float,
    gradients: frozenset[int] | None = None,
) -> list[Leg]:
    course = Course(problem, how, look(problem, problem.parameters), gradients=gradients)
    stacked = run_stack(course, runs, lambda _: None)
    for run, one in zip(runs, stacked, strict=True):
        alone = run_alone(course, run, lambda _: None)
        assert (one.method, one.learning_rate, one.seed, one.steps, one.diverged) == (*run, alone.steps, alone.diverged)
        assert numbers(one) == pytest.approx(numbers(alone), rel=tolerance, abs=tolerance, nan_ok=True)
    return stacked


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_size", marked("sweep", [8, 10_000], [8]))
@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_a_stack_are_the_runs_alone(kind: str, batch_size: int, dtype: torch.dtype) -> None:
    problem = KINDS[kind]()
    if dtype == torch.float64:
        problem = problem.in_double() if kind != "turned" else rotated(network().in_double(), 5)
    assert stackable(problem)
    methods = ("sgd", "adagrad", "adagrad-norm", "sgd-clip", "adam")
    runs = [Contender(method, *run) for run in RUNS for method in methods]
    how = settings(steps=12, batch_size=batch_size, evaluations=4)
    assert_the_same(problem, how, runs, 1e-9 if dtype == torch.float64 else 2e-4)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("kind", KINDS)
def test_losses_without_gradients(kind: str) -> None:
    problem, runs = KINDS[kind](), [Contender("adagrad", *run) for run in RUNS]
    before = problem.passes.total
    legs = assert_the_same(problem, settings(steps=12, batch_size=8, evaluations=4), runs, 1e-9, frozenset({12}))
    for leg in legs:
        assert [norm is not None for norm in leg.gradient_l1] == [True, *[False] * (len(leg.steps) - 2), True]
    looks = (len(legs[0].steps) - 1 + 2) / 3
    assert problem.passes.total - before == pytest.approx(1 + 2 * len(runs) * (12 * 8 / problem.n + looks + 2 / 3))


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("batch_size", [8, 10_000])
def test_points_of_runs_that_are_walked_together(batch_size: int) -> None:
    problem, steps = network(), (0, 3, 7)
    runs = [Contender(method, 0.03, seed) for seed in (1, 0) for method in (*RULES, "sgd")]
    how = settings(steps=9, batch_size=batch_size)
    before = problem.passes.total
    together = replays(problem, how, runs, steps)
    assert problem.passes.total - before == pytest.approx(len(runs) * 7 * min(batch_size / problem.n, 1))
    for run, visits in zip(runs, together, strict=True):
        alone = replay(problem, run, how, steps)
        assert [visit.step for visit in visits] == list(steps)
        for one, other in zip(visits, alone, strict=True):
            torch.testing.assert_close(one.parameters, other.parameters)
            torch.testing.assert_close(one.state, other.state)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("method", marked("sweep", RULES, ["sgd", "adagrad"]))
@pytest.mark.parametrize("changes", [{"box": 0.05}, {"schedule": "inverse-sqrt"}, {}])
def test_boxes_and_schedules(method: str, changes: dict[str, Any]) -> None:
    runs = [Contender(method, rate, seed) for rate, seed in RUNS]
    assert_the_same(network(), settings(steps=15, **changes), runs, 1e-9)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("batch_size", [8, 10_000])
def test_runs_that_diverge_leave_and_the_others_stay_as_they_are(batch_size: int) -> None:
    """Some of a method, all of a method, all of an order."""
    rates = {"sgd": (0.1, 1e9, 0.1), "sgd-momentum": (1e7, 1e8, 1e9), "adagrad": (0.1, 0.05, 1e30)}
    runs = [Contender(method, rate, seed) for method, own in rates.items() for seed, rate in enumerate(own)]
    problem = two_outputs()
    legs = assert_the_same(problem, settings(steps=30, batch_size=batch_size), runs, 1e-9)
    assert sum(leg.diverged for leg in legs) == 5
    assert_the_same(problem, settings(steps=30, batch_size=batch_size), runs[3:6], 1e-9)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("orders", [[0, 1, 2, 0, 1, 2], [0, 0, 0, 1], [0] * 8 + [1, 2, 3, 4, 5], [2], [3, 1, 2]])
def test_any_number_of_runs_of_an_order(orders: list[int]) -> None:
    """Groups with and without free places, and each run by itself."""
    runs = [Contender("sgd", 0.01 * (1 + at), order) for at, order in enumerate(orders)]
    assert_the_same(network(), settings(steps=6), runs, 1e-9)


@pytest.mark.usefixtures("in_float64")
def test_evaluations_in_pieces_are_those_of_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 7 samples and 2 runs at once, where layers have up to 8 outputs."""
    monkeypatch.setattr("diagnose.training.stack.EVALUATED", 7 * 8 * 2)
    monkeypatch.setattr("diagnose.training.stack.EVALUATED_SAMPLES", 7)
    monkeypatch.setattr("diagnose.training.stack.MOVED", 2 * network().d)
    runs = [Contender(method, *run) for run in RUNS for method in ("sgd", "adam")]
    for batch_size in (8, 10_000):
        assert_the_same(network(), settings(steps=6, batch_size=batch_size), runs, 1e-9)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_differences(kind: str) -> None:
    """(f(w + h u) - f(w - h u)) / 2h along random directions, for three runs on two orders, f by the model itself."""
    problem, generator = KINDS[kind](), torch.Generator().manual_seed(4)
    start = problem.flatten(problem.parameters)
    w = start + 0.1 * torch.randn(2, 3, problem.d, generator=generator)
    index = torch.randint(0, problem.n, (2, 9), generator=generator)
    samples = problem.take(index)
    assert isinstance(samples, tuple)
    with problem.measuring():
        gradients, losses = PlainLayers(problem).gradients(w, samples, 1 / 9)
        each = losses()
        for group, run in ((group, run) for group in range(2) for run in range(3)):
            batch = problem.take(index[group])

            def f(point: Tensor, batch: Any = batch) -> Tensor:
                with torch.no_grad():
                    return problem.losses(problem.unflatten(point), batch).double()

            torch.testing.assert_close(each[group, run].double(), f(w[group, run]), rtol=1e-10, atol=1e-12)
            for _ in range(3):
                u = torch.randn(problem.d, generator=generator)
                ends = [f(w[group, run] + h * u).mean() for h in (1e-5, -1e-5)]
                slope = float(gradients[group, run] @ u)
                assert slope == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-8)


def test_a_loss_without_a_graph_has_slopes_of_zero() -> None:
    """As on a batch that the loss says nothing about."""
    problem = two_outputs()
    problem._loss = lambda output, targets: targets.square().sum(1)
    problem.loss_name = None
    slopes, losses = output_slopes(problem, torch.randn(2, 3, 4, 2), torch.ones(2, 4, 2), 1.0)
    assert torch.equal(slopes, torch.zeros(2, 3, 4, 2))
    assert torch.equal(losses(), torch.full((2, 3, 4), 2.0))


@pytest.mark.parametrize("kind", ["logistic", "softmax", "many_classes", "two_outputs"])
def test_closed_forms_are_as_exact_as_autograd_near_a_perfect_fit(kind: str) -> None:
    """Outputs in float32 at which losses are 1e-9 and below, and others at which they are 1e4: to rounding."""
    problem = KINDS[kind]()
    samples = problem.take(slice(0, 16))
    assert isinstance(samples, tuple)
    inputs, targets = samples
    output = problem.output(problem.parameters, (inputs, targets)).detach()
    for scale in (1.0, 30.0, 1e4):
        leaf = (scale * output).requires_grad_()
        wanted = problem.loss_of(leaf, targets)
        (slopes,) = torch.autograd.grad(wanted.sum(), leaf)
        got, losses = output_slopes(problem, leaf.detach()[None, None], targets[None], 1.0)
        assert got.dtype == leaf.dtype
        # Above 128 classes both are rounded in float32: a softmax entry of 1e-20 to some units of its exponent.
        relative = 1e-6 if kind != "many_classes" else 1e-5
        torch.testing.assert_close(losses()[0, 0], wanted.detach(), rtol=relative, atol=1e-30)
        torch.testing.assert_close(got[0, 0], slopes, rtol=relative, atol=1e-30)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


OTHERS = [
    "forward hook",
    "pre-hook",
    "backward hook",
    "instance's forward",
    "subclass",
    "parametrized",
    "pruned",
    "dropout",
]


def _with_hook(kind: str) -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2))
    if kind == "forward hook":
        model[1].register_forward_hook(lambda module, args, output: 2 * output)
    elif kind == "pre-hook":
        model[0].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    elif kind == "backward hook":
        model[0].register_full_backward_hook(lambda module, into, out: None)
    elif kind == "instance's forward":
        model[1].forward = lambda x: 2 * x
    elif kind == "subclass":
        model[0] = Doubled(5, 3)
    elif kind == "parametrized":
        nn.utils.parametrizations.orthogonal(model[0])
    elif kind == "pruned":
        prune.l1_unstructured(model[0], "weight", 0.5)  # type: ignore[no-untyped-call]
    else:
        model.append(nn.Dropout())
    return model


@pytest.mark.parametrize("kind", OTHERS)
def test_modules_that_do_anything_else_are_not_stacked(kind: str) -> None:
    assert not stackable(Problem(_with_hook(kind), (_inputs(5), _classes(2))))
