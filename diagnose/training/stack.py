"""The runs of a stack on their way: a row of one matrix for each."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diagnose.training.plain_layers import PlainLayers
from diagnose.training.running import Seen, box_ends
from diagnose.training.runs import Contender, RaceSettings
from diagnose.training.update_rules import RULES, State, Tensors
from estimators.task.function import Parameters
from estimators.task.problem import Problem

EVALUATED, EVALUATED_SAMPLES = 1 << 17, 1 << 10
"""Where all samples go through the model: so many outputs of its widest layer at once, of so many samples at most."""
MOVED = 1 << 16
"""Coordinates of all runs that a rule moves at once: more leave the cache between its operations."""
PADDED = 2
"""Runs of one order share its batch while that takes at most so many times as many places as there are runs."""
WHOLE = "w"
"""The name under which a rule sees all coordinates of a run."""


class Stack:
    """Runs of any methods from their start on.

    Attributes:
        alive: the numbers of the runs that are still in, one for each row.
    """

    def __init__(self, problem: Problem, settings: RaceSettings, runs: Sequence[Contender]) -> None:
        self.alive = sorted(range(len(runs)), key=lambda run: (runs[run].method, runs[run].seed))
        self._problem, self._layers = problem, PlainLayers(problem)
        origin = problem.flatten(problem.parameters)
        self._w = origin.repeat(len(runs), 1)
        self._d_inf, self._d_2 = torch.zeros_like(self._w[:, 0]), torch.zeros_like(self._w[:, 0])
        self._origin, self._box = origin, _flat_box(problem, settings)
        self._parts = list(_parts([runs[run] for run in self.alive], origin))
        orders = sorted({run.seed for run in runs})
        self._orders = [orders.index(runs[run].seed) for run in self.alive]
        self._settle()

    def _settle(self) -> None:
        """Give the parts their rows, and the orders their places."""
        sizes = [len(part.rates) for part in self._parts]
        for part, rows in zip(self._parts, torch.split(self._w, sizes), strict=True):
            part.w = rows
        self._banks = list(_banks(self._parts, MOVED // self._problem.d))
        self._groups = _groups(self._orders, self._w.device)

    def step(self, trained: Problem, index: Tensor | None, factor: float) -> None:
        """Take every run to its next iterate.

        Args:
            trained: the rows that batches are drawn from.
            index: the batch of each order, (orders, m); None: all rows.
            factor: of the learning rates.
        """
        g = self._gradients(trained) if index is None else self._batch_gradients(trained, index)
        trained.passes.add(len(self.alive) * (1.0 if index is None else index.shape[1] / trained.n))
        for parts, rows in self._banks:
            for part, own in zip(parts, torch.split(g[rows], [len(part.w) for part in parts]), strict=True):
                part.move(own, factor, self._box)
            away = self._w[rows] - self._origin
            furthest, longest = self._d_inf[rows], self._d_2[rows]
            torch.maximum(longest, torch.linalg.vector_norm(away, dim=1), out=longest)
            torch.maximum(furthest, away.abs_().amax(1), out=furthest)

    def _batch_gradients(self, trained: Problem, index: Tensor) -> Tensor:
        """Each run's gradient, (runs, d), of the mean loss of its batch."""
        groups = self._groups
        samples = trained.take(index[groups.orders])
        assert not isinstance(samples, dict)
        w = self._w if groups.places is None else self._w[groups.places]
        w = w.view(len(groups.orders), -1, self._problem.d)
        g, _ = self._layers.gradients(w, samples, 1 / index.shape[1])
        return g.flatten(0, 1) if groups.rows is None else g.flatten(0, 1)[groups.rows]

    def _gradients(self, problem: Problem) -> Tensor:
        """Each run's gradient, (runs, d), of the mean loss of all samples of a problem."""
        return self._sums(problem)[1].to(self._w.dtype)

    def look(self, gradient: bool) -> list[Seen]:
        """What :func:`running.look` sees, for each run."""
        self._problem.passes.add(len(self.alive) if gradient else len(self.alive) / 3)
        if not gradient:
            return [(loss, None, None) for loss in self._losses(self._problem).tolist()]
        value, slope = self._sums(self._problem)
        columns = (value, slope.abs().sum(1), torch.linalg.vector_norm(slope, dim=1))
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def end(self, run: int) -> tuple[Parameters, float, float]:
        """Where a run is, and how far from the start it went, in the max and the Euclidean norm."""
        row = self.alive.index(run)
        return self._problem.unflatten(self._w[row]), self._d_inf[row].item(), self._d_2[row].item()

    def visit(self, run: int) -> tuple[Parameters, State]:
        """Where a run is, with the state of its rule, in the shapes of the parameters."""
        row = self.alive.index(run)
        for part in self._parts:
            if row < len(part.rates):
                break
            row -= len(part.rates)
        state = {kind: self._shaped(parts, row) for kind, parts in part.state.items()}
        return self._problem.unflatten(part.w[row].clone()), state

    def _shaped(self, parts: Tensors, row: int) -> Tensors:
        shaped = {name: each[row].clone() for name, each in parts.items()}
        whole = shaped.pop(WHOLE, None)
        return {name: each.reshape(()) for name, each in shaped.items()} | (
            {} if whole is None else self._problem.unflatten(whole)
        )

    def drop(self, over: Collection[int]) -> None:
        """Take runs out."""
        stay = [run not in over for run in self.alive]
        if all(stay):
            return
        keep = torch.tensor(stay, device=self._w.device)
        sizes = [len(part.rates) for part in self._parts]
        parts = [part.only(rows) for part, rows in zip(self._parts, torch.split(keep, sizes), strict=True)]
        self._parts = [part for part in parts if len(part.rates)]
        self._w, self._d_inf, self._d_2 = self._w[keep], self._d_inf[keep], self._d_2[keep]
        self.alive, self._orders = (list(itertools.compress(rows, stay)) for rows in (self.alive, self._orders))
        self._settle()

    def _sums(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """The mean loss of all samples of a problem, (runs,), and its gradients, (runs, d), summed in float64."""
        gradient = torch.zeros_like(self._w, dtype=torch.float64)
        value = torch.zeros_like(gradient[:, 0])
        for rows, samples in self._pieces(problem):
            g, losses = self._layers.gradients(self._w[None, rows], samples, 1 / problem.n)
            gradient[rows] += g[0]
            value[rows] += losses()[0].double().sum(1)
        return value / problem.n, gradient

    def _losses(self, problem: Problem) -> Tensor:
        """The mean loss of all samples of a problem, (runs,) float64."""
        value = torch.zeros(len(self._w), dtype=torch.float64, device=self._w.device)
        for rows, samples in self._pieces(problem):
            value[rows] += self._layers.losses(self._w[None, rows], samples)[0].double().sum(1)
        return value / problem.n

    def _pieces(self, problem: Problem) -> Iterator[tuple[slice, tuple[Tensor, Tensor]]]:
        """Some of the runs and some of a problem's samples, in one group, that go through the model at once."""
        width = min(problem.n, EVALUATED_SAMPLES)
        runs = max(1, EVALUATED // (width * self._layers.widest))
        for first in range(0, problem.n, width):
            samples = problem.take(slice(first, first + width))
            assert not isinstance(samples, dict)
            for start in range(0, len(self._w), runs):
                yield slice(start, start + runs), (samples[0][None], samples[1][None])


class _Part:
    """Runs of one method, with their rates and the rule's state; ``w`` is rows of the stack's."""

    w: Tensor

    def __init__(self, method: str, rates: Tensor, state: State) -> None:
        self.method, self.rates, self.state = method, rates, state

    def move(self, g: Tensor, factor: float, box: Sequence[Tensor]) -> None:
        """A step of each run, for the gradients (runs, d)."""
        change, self.state = RULES[self.method].update({WHOLE: g}, self.state, self.rates * factor)
        self.w += change[WHOLE]
        if box:
            self.w.clamp_(*box)

    def only(self, rows: Tensor) -> _Part:
        """Some of the runs, by a mask."""
        state = {kind: {name: each[rows] for name, each in parts.items()} for kind, parts in self.state.items()}
        return _Part(self.method, self.rates[rows], state)


def _parts(runs: Sequence[Contender], origin: Tensor) -> Iterator[_Part]:
    """Of runs that are sorted by method, starting at ``origin``."""
    most = max(1, MOVED // len(origin))
    for method, each in itertools.groupby(runs, key=lambda run: run.method):
        rates = [run.learning_rate for run in each]
        for first in range(0, len(rates), most):
            some = torch.tensor(rates[first : first + most], dtype=origin.dtype, device=origin.device)
            yield _Part(method, some[:, None], RULES[method].init({WHOLE: origin.repeat(len(some), 1)}))


def _banks(parts: Sequence[_Part], most: int) -> Iterator[tuple[list[_Part], slice]]:
    """Parts that follow each other, with their rows: as many as have ``most`` rows together, or one."""
    bank: list[_Part] = []
    first = last = 0
    for part in parts:
        if bank and last + len(part.w) - first > most:
            yield bank, slice(first, last)
            bank, first = [], last
        bank.append(part)
        last += len(part.w)
    if bank:
        yield bank, slice(first, last)


def _flat_box(problem: Problem, settings: RaceSettings) -> list[Tensor]:
    """The two ends of the box that the iterates stay in, each (d,); none where they go where they like."""
    box = box_ends(problem, settings)
    return [] if box is None else [problem.flatten({name: pair[end] for name, pair in box.items()}) for end in (0, 1)]


class _Groups(NamedTuple):
    """Groups of as many places each for the runs of one order of the batches, who share a batch.

    Attributes:
        orders: of each group.
        places: the row at each place, group by group, any one where a place is free; None: the rows as they are.
        rows: the place of each row; None: as they are.
    """

    orders: Tensor
    places: Tensor | None
    rows: Tensor | None


def _groups(orders: Sequence[int], device: torch.device) -> _Groups:
    """For the order of each row."""
    rows: dict[int, list[int]] = defaultdict(list)
    for row, order in enumerate(orders):
        rows[order].append(row)
    most = max(map(len, rows.values()), default=0)
    if len(rows) * most > PADDED * len(orders):  # each run by itself
        return _Groups(torch.tensor(orders, device=device), None, None)
    places = [row for own in rows.values() for row in (*own, *own[:1] * (most - len(own)))]
    of = torch.tensor(list(rows), device=device, dtype=torch.long)
    if places == list(range(len(orders))):
        return _Groups(of, None, None)
    place = {row: at for at, row in reversed(list(enumerate(places)))}
    back = [place[row] for row in range(len(orders))]
    return _Groups(of, torch.tensor(places, device=device), torch.tensor(back, device=device))
