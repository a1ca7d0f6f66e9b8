"""Rows of a batch that a forward moves by what the data say: per-sample gradients against one sample at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimators import Problem, noise
from estimators.per_sample import engines, gradients, layer_rules, row_places
from estimators.per_sample.gradients import gradient_moments, gradient_rows
from estimators.per_sample.parameter_uses import Site
from estimators.per_sample.parameter_uses import gradients as gradients_of
from estimators.per_sample.row_places import as_planned, misplaced, operations, weights
from tests import oracles
from tests.markers import marked, seeds
from tests.module_kinds import BY_NAME, CLASSES, Routed
from tests.problems import Parts

N, WIDTH = 16, 5
SEEDS = range(6)
Move = Callable[[Tensor, Tensor], Tensor]
"""(rows, order) -> rows[order]."""


def _one_hot(order: Tensor) -> Tensor:
    return F.one_hot(order, len(order)).double()


def _written(rows: Tensor, order: Tensor) -> Tensor:
    out = torch.zeros_like(rows)
    out[order.argsort()] = rows
    return out


def _masked_sum(rows: Tensor, order: Tensor) -> Tensor:
    return (_one_hot(order)[:, :, None] * rows[None]).sum(1)


MOVES: dict[str, Move] = {
    "index": lambda rows, order: rows[order],
    "index-select": lambda rows, order: rows.index_select(0, order),
    "gather": lambda rows, order: rows.gather(0, order[:, None].expand_as(rows)),
    "written": _written,
    "lookup": lambda rows, order: F.embedding(order, rows),
    "one-hot": lambda rows, order: _one_hot(order) @ rows,
    "one-hot-turned": lambda rows, order: (rows.T @ _one_hot(order).T).T,
    "einsum": lambda rows, order: torch.einsum("ij,jd->id", _one_hot(order), rows),
    "masked-sum": _masked_sum,
    "one-by-one": lambda rows, order: torch.stack([rows[i] for i in order.tolist()]),
    "inner-axis": lambda rows, order: rows[None][:, order][0],
    "channels": lambda rows, order: F.conv1d(rows[None], _one_hot(order)[:, :, None])[0],
}


class Sorted(nn.Module):
    """One layer three times: as the rows come, sorted by their first number, and in their order again."""

    def __init__(self, move: Move) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.move = move

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        rows = self.move(torch.tanh(self.layer(x)), order)
        output: Tensor = self.head(torch.tanh(self.layer(self.move(torch.tanh(self.layer(rows)), order.argsort()))))
        return output


def _parts(model: Callable[[], nn.Module], seed: int, shape: tuple[int, ...] = (N, WIDTH)) -> Parts:
    torch.manual_seed(seed)
    body = model().double()
    x = torch.randn(*shape, dtype=torch.float64)
    return body, (x, torch.arange(len(x)) % CLASSES), "cross-entropy"


def _off(parts: Parts, chunk: int) -> float:
    """How far ||sigma||_1 is off, as a share."""
    problem = Problem(*parts)
    problem.chunk = chunk
    found = noise(problem)
    assert found.exact
    assert found.l1 is not None
    wanted = oracles.per_sample_gradients(parts).std(0).sum()
    return abs(float(found.l1 / wanted) - 1)


@pytest.mark.parametrize("chunk", [N, 7, 2])
@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("repeats", seeds(6, 2))
def test_rows_that_the_data_order(name: str, chunk: int, repeats: range) -> None:
    assert max(_off(_parts(lambda: Sorted(MOVES[name]), seed), chunk) for seed in repeats) < 1e-12


@pytest.mark.parametrize("name", marked("coverage", MOVES, ["index", "lookup", "one-hot", "channels"]))
def test_the_order_is_one_that_two_samples_can_hide(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the proof the numbers are wrong: what the tests above stand on."""
    monkeypatch.setattr(row_places, "misplaced", lambda *_: False)
    assert max(_off(_parts(lambda: Sorted(MOVES[name]), seed), N) for seed in SEEDS) > 1e-3


@pytest.mark.parametrize("shape", [(N, WIDTH), (6, 2, WIDTH), (8, 4, WIDTH)])
@pytest.mark.parametrize("repeats", seeds(30, 6))
def test_two_experts(shape: tuple[int, ...], repeats: range) -> None:
    """Rows through one of two layers: on some small sets each sample seems to hold as many of either."""

    def made() -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, 4), Routed(), nn.Flatten(), nn.LazyLinear(CLASSES))

    for seed in repeats:
        parts = _parts(made, seed, shape)
        parts[0](parts[1][0])  # type: ignore[index]
        assert _off(parts, shape[0]) < 1e-12


class Packed(nn.Module):
    """Sequences of their own lengths, which torch sorts by length before a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.lstm = nn.Linear(WIDTH, WIDTH), nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        lengths = 2 + (x[:, 0, 0] > 0).long() + (x[:, 1, 0] > 0).long()
        packed = nn.utils.rnn.pack_padded_sequence(self.layer(x), lengths, batch_first=True, enforce_sorted=False)
        output: Tensor = self.head(self.lstm(packed)[1][0][-1])
        return output


@pytest.mark.parametrize("chunk", [8, 3])
@pytest.mark.parametrize("repeats", seeds(12, 3))
def test_packed_sequences(chunk: int, repeats: range) -> None:
    for seed in repeats:
        assert _off(_parts(Packed, seed, (8, 4, WIDTH)), chunk) < 1e-11


def test_the_loop_takes_over_with_a_note_and_stays() -> None:
    seed = next(s for s in SEEDS if _engine(Problem(*_parts(lambda: Sorted(MOVES["index"]), s))).name == "rules")
    problem = Problem(*_parts(lambda: Sorted(MOVES["index"]), seed))
    (note,) = gradient_rows(problem)[2]
    assert note.code == "loop-over-samples"
    assert note.found == (
        "layer rules were not used: rows of the samples lie in an order that the data decide, or samples share them"
    )
    before = problem.passes.total
    assert gradient_moments(problem)[1] == (note,)
    assert problem.passes.total - before == pytest.approx(1)


def _engine(problem: Problem) -> engines.Engine:
    with problem.measuring():
        return gradients._choice(problem)[0]


# -- what a proof costs, and who needs one ---------------------------------------------------------


class Harmless(nn.Module):
    """Moves rows and puts them back with no parameter between."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        output: Tensor = self.head(torch.tanh(self.layer(x))[order][order.argsort()])
        return output


def test_a_proof_is_a_third_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(*_parts(Harmless, 0))
    assert _engine(problem).name == "rules"
    before = problem.passes.total
    calls: list[int] = []

    def counted(loss: Tensor, of: Sequence[Site]) -> list[Tensor]:
        calls.append(1)
        return gradients_of(loss, of)

    monkeypatch.setattr(layer_rules, "gradients", counted)
    gradient_moments(problem)
    assert len(calls) == 2 * len(list(engines.pieces(range(N), _engine(problem).width(problem))))
    assert problem.passes.total - before == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    "name", ["linear", "linear-rows", "twice", "tied-head", "layer-norm", "rms-norm", "batch-norm", "conv-2d", "tied"]
)
def test_plain_layers_need_no_proof(name: str) -> None:
    problem = Problem(*BY_NAME[name].parts())
    assert _engine(problem).name == "rules"
    before = problem.passes.total
    gradient_moments(problem)
    assert problem.passes.total - before == pytest.approx(1)


def test_operations_of_a_chunk() -> None:
    layer = nn.Linear(WIDTH, WIDTH)

    def listed(samples: int, steps: Callable[[Tensor], Tensor]) -> object:
        return operations(steps(layer(torch.randn(samples, WIDTH))), samples)

    plain = [listed(m, lambda y: torch.tanh(y).sum(1)) for m in (2, 7)]
    assert as_planned(plain[0], plain[1], 7)  # type: ignore[arg-type]
    other = listed(7, lambda y: torch.sigmoid(y).sum(1))
    assert not as_planned(plain[0], other, 7)  # type: ignore[arg-type]
    assert listed(2, lambda y: y.flip(0).sum(1)) is None
    assert not as_planned(None, None, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_misplaced_rows(dtype: torch.dtype) -> None:
    rows = torch.randn(40, 3, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    by = weights(40, dtype)
    each = by.to(dtype)[:, None, None]
    assert not misplaced(rows, rows * each, by)
    swapped = each[torch.arange(40).roll(1)]
    assert misplaced(rows, rows * swapped, by)
    shared = rows * each
    shared[7, 1] += 0.5 * rows[8, 1] * (each[8, 0] - each[7, 0])  # half of a row belongs to the next sample
    assert misplaced(rows, shared, by)
    assert misplaced(rows, rows * each * float("nan"), by)


def test_weights_differ() -> None:
    assert len(set(weights(64, torch.float32).tolist())) == 64
    assert torch.equal(weights(9, torch.float64), weights(9, torch.float64))
