"""Per-sample gradients by layer rules, for modules of every kind, against brute force.

Where a graph has a use without a rule, another engine takes over: the numbers are the same, and the table of modules
says which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from estimators import InputError, Problem
from estimators.numbers.moments import Sums, moments_of_outer_products, moments_of_rows
from estimators.per_sample import engines, gradients, layer_rules
from estimators.per_sample.gradients import gradient_moments, grouped_moments
from estimators.task.products import hessian
from tests import oracles, rounding, transformers_cases
from tests.markers import marked
from tests.module_kinds import BY_NAME, CLASSES, KINDS, TIME, WIDTH, Kind, Model, N, rows
from tests.problems import Parts
from tests.transformers_oracles import Oracle


def _engine(problem: Problem) -> str:
    with problem.measuring():
        return gradients._choice(problem)[0].name


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("chunk", marked("sweep", [N, 4], [4]))
def test_moments(kind: Kind, chunk: int) -> None:
    problem = Problem(*kind.parts())
    problem.chunk = chunk
    moments, findings = gradient_moments(problem)
    rows = torch.from_numpy(oracles.per_sample_gradients(kind.oracle_parts()))
    assert moments.count == N
    size = float(rows.abs().max())
    torch.testing.assert_close(moments.mean, rows.mean(0), rtol=0, atol=1e-13 * size)
    torch.testing.assert_close(moments.squares, rows.var(0, correction=0) * N, rtol=0, atol=1e-13 * size**2)
    assert _engine(problem) == kind.engine
    assert [f.code for f in findings] == (["loop-over-samples"] if kind.engine == "loop" else [])


# -- where samples could be taken for each other ---------------------------------------------------


def _check(problem: Problem, parts: Parts) -> None:
    moments, _ = gradient_moments(problem)
    rows = torch.from_numpy(oracles.per_sample_gradients(parts))
    torch.testing.assert_close(moments.mean, rows.mean(0), rtol=0, atol=1e-13 * float(rows.abs().max()))
    squares = rows.var(0, correction=0) * len(rows)
    torch.testing.assert_close(moments.squares, squares, rtol=0, atol=1e-13 * float(squares.max()))


class Scalars(nn.Module):
    """A linear layer, and a parameter of one number or few used in an operation on its output."""

    def __init__(self, change: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...], axes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layer = nn.Linear(4, 3).double()
        self.number = nn.Parameter(1 + torch.rand(shape, generator=generator, dtype=torch.float64))
        self.change, self.axes = change, axes

    def forward(self, x: Tensor) -> Tensor:
        if self.axes == 1:
            return self.change(x @ self.layer.weight[0], self.number)
        if self.axes == 2:
            return self.change(self.layer(x), self.number).sum(1)
        times = torch.arange(1, 6, dtype=torch.float64)[:, None]
        return self.change(self.layer(x.unsqueeze(1) * times).tanh(), self.number).sum((1, 2))


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "times": lambda h, a: h * a,
    "plus": lambda h, a: (h + a).tanh(),
    "both": lambda h, a: h * a + a,
    "minus": lambda h, a: (a - h).tanh(),
    "over": lambda h, a: h / a,
    "exp": lambda h, a: h * a.exp(),
    "scaled": lambda h, a: torch.add(h, a, alpha=2).tanh(),
    "added twice": lambda h, a: (h * a).tanh() + a.sum(),
}


@pytest.mark.parametrize("operation", marked("sweep", OPERATIONS, ["times", "minus", "added twice"]))
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((), 1), ((1,), 1), ((), 2), ((1,), 2), ((1, 1), 2), ((), 3), ((1,), 3), ((5, 1), 3), ((1, 3), 3), ((1, 5, 1), 3)],
)
def test_parameters_of_one_number(operation: str, shape: tuple[int, ...], axes: int) -> None:
    """As in ReZero (a scalar times a branch) or a bias of shape (1,)."""
    inputs = torch.randn(7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parts = Scalars(OPERATIONS[operation], shape, axes), (inputs, inputs[:, 0]), "squared"
    problem = Problem(*parts)
    _check(problem, parts)
    if operation in ("times", "both") and axes > 1:
        assert _engine(problem) == "rules"


def test_a_problem_of_one_number() -> None:
    """l_i = (w x_i - y_i)^2 / 2: the gradient of sample i is (w x_i - y_i) x_i."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.w

    x = torch.randn(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = x.flip(0)
    problem = Problem(One(), (x, y), "squared")
    moments, _ = gradient_moments(problem)
    each = (0.3 * x - y) * x
    torch.testing.assert_close(moments.mean, each.mean(0, keepdim=True))
    torch.testing.assert_close(moments.squares, each.var(0, correction=0).reshape(1) * 9)
    assert problem.hessian_vector_product({"w": torch.ones((), dtype=torch.float64)})["w"].item() == pytest.approx(
        float(x.square().mean())
    )


@pytest.mark.parametrize("samples", [2, TIME, 2 * TIME])
@pytest.mark.parametrize("name", ["tied", "tied-head", "attention-time-first", "conv-1d", "bare"])
def test_as_many_samples_as_places(name: str, samples: int) -> None:
    """Sizes alone cannot tell the axis of the samples from that of time."""
    kind = BY_NAME[name]
    model, (x, _), loss = kind.parts()
    x = torch.cat([x, x.flip(1)])[:samples]
    parts: Parts = model, (x, torch.arange(samples) % CLASSES), loss
    _check(Problem(*parts), parts)


def _hinge(output: Tensor, targets: Tensor) -> Tensor:
    return torch.relu(1 - output[:, 0] * targets)


@pytest.mark.parametrize("name", ["linear-rows", "attention", "attention-time-first"])
def test_samples_without_a_gradient(name: str) -> None:
    """The first sample and the last, on which engines are checked, have none; where one row is no sample, no rule
    is trusted then."""
    model, (x, _), _ = BY_NAME[name].parts()
    with torch.no_grad():
        scores = model(x)[:, 0]
    targets = -torch.sign(scores)  # on the wrong side: a gradient
    targets[[0, -1]] = 2 / scores[[0, -1]]  # beyond the margin: none
    parts: Parts = model, (x, targets), _hinge
    rows = oracles.per_sample_gradients(parts)
    assert not rows[[0, -1]].any()
    assert rows[1:-1].any(1).all()
    problem = Problem(*parts)
    assert _engine(problem) == ("rules" if name == "linear-rows" else "vmap")
    _check(problem, parts)


def test_an_addition_that_starts_at_zero() -> None:
    """Adapters start with a factor of 0: no gradient reaches the other, whose rows lie as those of the rest do."""
    torch.manual_seed(3)
    body = nn.Sequential(nn.Linear(WIDTH, WIDTH), Added(), nn.Tanh())
    parts: Parts = Model(body).double(), (rows().double(), torch.arange(N) % CLASSES), "cross-entropy"
    problem = Problem(*parts)
    assert _engine(problem) == "rules"
    _check(problem, parts)


class Added(nn.Module):
    """x + x A B with B = 0."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.b(self.a(x))
        return output


@pytest.mark.parametrize(
    "name",
    marked(
        "sweep", ["gpt2", "gpt2-text", "bert-masked", "vit", "opt", "lora", "frozen", "idle"], ["gpt2", "bert-masked"]
    ),
)
def test_transformers_in_chunks(name: str) -> None:
    """Chunks share other labelled positions than the two samples of the check: the rules hold for their rows too."""
    case = transformers_cases.BY_NAME[name]
    model, samples = case.model(), case.samples()
    for chunk in (1, 2, 3):
        problem = Problem(model, samples)
        problem.chunk = chunk
        moments, findings = gradient_moments(problem)
        assert findings == ()
        assert _engine(problem) == "rules"
        rows = Oracle(model, samples).rows()
        torch.testing.assert_close(moments.mean, rows.mean(0), rtol=0, atol=1e-12 * float(rows.abs().max()))
        squares = rows.var(0, correction=0) * len(rows)
        torch.testing.assert_close(moments.squares, squares, rtol=0, atol=1e-12 * float(squares.max()))


# -- what is not used unchecked --------------------------------------------------------------------


def test_a_wrong_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    key = ("NativeLayerNormBackward0", 1)
    right = layer_rules.RULES[key]

    def wrong(*arguments: Any) -> layer_rules.Use:
        use = right(*arguments)
        return layer_rules.Use(lambda start, stop: use.rows(start, stop) * (1 + 1e-6))

    monkeypatch.setitem(layer_rules.RULES, key, wrong)
    parts = BY_NAME["layer-norm"].parts()
    problem = Problem(*parts)
    _check(problem, BY_NAME["layer-norm"].parts())
    (note,) = gradient_moments(problem)[1]
    assert note.code == "loop-over-samples"
    assert note.found == (
        "layer rules were not used: its gradients of body.1.weight differ from those of one sample at a time"
    )


class Late(nn.Module):
    """Goes another way for samples whose first number is large."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        chosen = (x[:, 0, 0] > 9).nonzero()[:, 0]
        output: Tensor = self.one(x)
        return output.index_add(0, chosen, self.other(x[chosen])) if chosen.numel() else output


def test_a_graph_that_changes_between_chunks() -> None:
    torch.manual_seed(4)
    x = rows().double()
    x[3, 0, 0] = 10
    parts: Parts = Model(Late()).double(), (x, torch.arange(N) % CLASSES), "cross-entropy"
    problem = Problem(*parts)
    problem.chunk = 2
    _check(problem, parts)
    (note,) = gradient_moments(problem)[1]
    assert note.found == "layer rules were not used: the operations depend on the samples"


def test_the_check_is_paid_once() -> None:
    problem = Problem(*BY_NAME["linear"].parts())
    opening = problem.passes.total
    gradient_moments(problem)
    first = problem.passes.total
    gradient_moments(problem)
    assert first == pytest.approx(opening + 1 + 4 / N)
    assert problem.passes.total - first == pytest.approx(1)


# -- groups, sums, memory --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["twice", "linear-rows", "embedding-bag", "routed"])
@pytest.mark.parametrize("groups", [1, 2, 4, N])
def test_groups(name: str, groups: int) -> None:
    parts = BY_NAME[name].parts()
    rows = torch.from_numpy(oracles.per_sample_gradients(parts))
    some = torch.tensor([0, rows.shape[1] - 1])
    for at in (None, some):
        whole, found, _ = grouped_moments(Problem(*parts), groups, at)
        for group, moments in [*enumerate(found), (None, whole)]:
            own = rows if group is None else rows[group::groups] if at is None else rows[group::groups, at]
            assert moments.count == len(own)
            torch.testing.assert_close(moments.mean, own.mean(0), rtol=0, atol=1e-13)
            torch.testing.assert_close(moments.squares, own.var(0, correction=0) * len(own), rtol=0, atol=1e-13)
        assert len(found) == groups


def test_more_groups_than_samples_are_refused() -> None:
    with pytest.raises(InputError, match="6 samples do not make 7 groups"):
        grouped_moments(Problem(*BY_NAME["linear"].parts()), 7)


def test_outer_products_do_not_cancel() -> None:
    """Factors of 1 with deviations of 1e-3: (left^2)' right^2 alone would lose all but a digit of the variance."""
    generator = torch.Generator().manual_seed(1)
    left, right = (1 + 1e-3 * torch.randn(50, size, generator=generator) for size in (3, 4))
    left[:, 0] = torch.randn(50, generator=generator)
    rows = (left.double()[:, :, None] * right.double()[:, None]).flatten(1)
    wanted = moments_of_rows(rows)
    found = moments_of_outer_products(left, right, 100)
    np.testing.assert_allclose(found.squares.numpy(), wanted.squares.numpy(), rtol=1e-4)
    np.testing.assert_allclose(found.mean.numpy(), wanted.mean.numpy(), rtol=1e-6, atol=1e-7)
    naive = left.square().mT @ right.square() - (left.mT @ right).square() / 50
    assert float((naive.flatten() / wanted.squares - 1).abs().max()) > 0.05  # what the second sum is for


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums(dtype: torch.dtype) -> None:
    """Rows and moments in any order; a mean of 1e4 beside deviations of 1."""
    rows = (100 + torch.randn(40, 5, generator=torch.Generator().manual_seed(2))).to(dtype)
    wanted = moments_of_rows(rows)
    for pieces in ([1, 7, 32], [40], [39, 1]):
        for known in (False, True):
            mean, squares = torch.empty(2, 5, dtype=torch.float64)
            sums = Sums(mean, squares)
            for k, part in enumerate(torch.split(rows.clone(), pieces)):
                if known and k == 0:
                    sums.merge(moments_of_rows(part))
                else:
                    sums.add(part)
            sums.close()
            torch.testing.assert_close(mean, wanted.mean, rtol=1e-6, atol=0)
            torch.testing.assert_close(squares, wanted.squares, rtol=1e-4, atol=0)


def test_rows_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more rows at once than ROW_NUMBERS holds, or one."""
    monkeypatch.setattr(engines, "ROW_NUMBERS", 40)
    seen: list[tuple[int, int]] = []
    add = Sums.add

    def watched(self: Sums, rows: Tensor) -> None:
        seen.append((rows.shape[0], rows.numel()))
        add(self, rows)

    monkeypatch.setattr(Sums, "add", watched)
    parts = BY_NAME["conv-grouped"].parts()
    _check(Problem(*parts), BY_NAME["conv-grouped"].parts())
    assert all(count == 1 or numbers <= 40 for count, numbers in seen)
    assert max(count for count, _ in seen) > 1


@pytest.mark.parametrize("name", marked("sweep", ["gpt2", "vit", "bert-masked"], ["gpt2"]))
def test_any_chunks_in_float32(name: str) -> None:
    """The same moments and products but for rounding, which a sample in another's place is not."""
    case = transformers_cases.BY_NAME[name]
    samples = {k: v.float() if v.is_floating_point() else v for k, v in case.samples().items()}
    found = []
    for chunk in (5, 3, 2, 1):
        problem = Problem(case.model().float(), samples)
        problem.chunk = chunk
        found.append(_moments_and_product(problem))
    added = problem.n * 10  # samples, and positions of each
    roundings = [passes * transformers_cases.PATH + added for passes in (2, 2, 4)]
    mean, sigma, product = found[0]
    scales = (max(mean.abs().max(), sigma.max()), sigma.max(), product.abs().max())  # a mean may be small by cancelling
    wrong = _moments_and_product(problem.subset(torch.arange(problem.n).clamp(1)))
    for place, (length, scale) in enumerate(zip(roundings, scales, strict=True)):
        allowed = rounding.bound(torch.float32, length, float(scale))
        for other in found[1:]:
            assert _apart(other[place], found[0][place]) <= allowed
        assert _apart(wrong[place], found[0][place]) > 100 * allowed


def _moments_and_product(problem: Problem) -> tuple[Tensor, ...]:
    v = torch.randn(problem.d, generator=torch.Generator().manual_seed(11))
    moments = gradient_moments(problem)[0]
    with hessian(problem) as product:
        return moments.mean, moments.squares.sqrt(), product(v[:, None] / v.norm())[:, 0]


def _apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())
