"""The methods of a race on their way: what each has run, what it needs next, and the runs that are made of that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from diagnose.training.pairs import best_other, best_rates, compared, lowest_rate
from diagnose.training.processes import side_by_side
from diagnose.training.running import Counted, Course, counted, gradient_steps
from diagnose.training.runs import Contender, Leg, LegStore, Race, RaceSettings, evaluation_steps
from diagnose.training.stacking import grouped, run_stack
from diagnose.training.steps import state_bytes
from diagnose.training.tuning import GROWTHS, Tuning, expected_runs, neighbours, tune
from estimators.results import Progress
from reports.record.diagnosis import PAIR

STAGE = "training"
Rates = dict[str, set[float]]
"""Learning rates by method."""


class Entrants:
    """All methods of a race.

    Attributes:
        race: the legs so far.
        orders: of the batches that SGD and AdaGrad have run.
    """

    def __init__(self, course: Course, legs: LegStore, progress: Progress | None) -> None:
        settings = course.settings
        memory = {
            method: state_bytes(method, settings.own, course.problem.parameters) for method in settings.optimizers
        }
        self.settings, self.orders = settings, settings.blocks[0]
        first = {method: settings.first_orders(method) for method in settings.optimizers}
        self.race = Race(settings, (), memory, course.held_out is not None, first)
        expected = {method: expected_runs(settings, orders) for method, orders in first.items()}
        self._runner = _Runner(course, legs, progress, expected)

    def tune(self) -> None:
        """Tune each method by itself on the first block of orders, all side by side."""
        tunings: dict[str, Tuning] = {
            method: tune(method, self.settings, orders) for method, orders in self.race.orders.items()
        }
        wanted = {method: next(tuning) for method, tuning in tunings.items()}
        while wanted:
            runs = [Contender(method, rate, seed) for method, asked in wanted.items() for rate, seed in asked]
            made = self._run(runs)
            for method in list(wanted):
                try:
                    wanted[method] = tunings[method].send([leg for leg in made if leg.method == method])
                except StopIteration:
                    del wanted[method]
                    self._runner.finish(method)

    def settle(self) -> None:
        """Run the neighbours that the best rates lack with all orders, until each best rate lies inside its grid.

        Where runs train alone, one that was out after the first block or a later one stays out.
        """
        for _ in range(GROWTHS):
            wanted: Rates = {}
            for method, rates in self._best().items():
                wanted[method] = {near for rate in rates for near in neighbours(rate, self.settings, method)}
                if not self.settings.stacked:
                    wanted[method] -= set(self.race.judged(method))
            runs = [run for method in wanted for run in self._lacking(method, wanted[method], self.race.count(method))]
            if not runs:
                break
            self._run(runs)

    def next_block(self, orders: int) -> list[Contender]:
        """The runs up to so many orders: at the rates that are best on all orders so far or on one of their halves, and
        in stacks, where they cost next to nothing, at the neighbours of the best."""
        rates = self._contenders()
        for method, best in self._best().items():
            rates[method] = rates.get(method, set()) | best
            if self.settings.stacked:
                beside = {near for rate in best for near in neighbours(rate, self.settings, method)}
                rates[method] |= beside & set(self.race.rates(method))
        return [run for method in self._going_on() for run in self._lacking(method, rates.get(method, set()), orders)]

    def run_block(self, runs: Sequence[Contender], orders: int) -> None:
        """Run a block; from here on the methods that go on are judged on so many orders."""
        going = self._going_on()
        self._run(runs)
        self.race = replace(self.race, orders={**self.race.orders, **dict.fromkeys(going, orders)})
        self.orders = orders

    def finish(self) -> None:
        """No further run is needed."""
        for method in self.settings.optimizers:
            self._runner.finish(method)

    def _going_on(self) -> list[str]:
        """The methods that run more orders."""
        chosen = {*PAIR, best_other(self.race)} if self.settings.auto else set(self.settings.optimizers)
        return [m for m in self.settings.optimizers if m in chosen and not self.settings.deterministic(m)]

    def _best(self) -> Rates:
        """The rates of each method that end lowest or meet a target first, with any other method."""
        rates: Rates = {method: {rate} for method, rate in best_rates(self.race).items()}
        for method in rates:
            if (rate := lowest_rate(self.race, method)) is not None:
                rates[method].add(rate)
            found, _ = compared(self.race, method) if method != "adagrad" else (None, "")
            if found is not None:
                rates[method] |= {found.rates[0], found.lowest_rates[0]}
                rates["adagrad"] |= {found.rates[1], found.lowest_rates[1]}
        return rates

    def _contenders(self) -> Rates:
        """The rates of each method that may still be best; all where it cannot be compared."""
        rates: Rates = {}
        for method in self._going_on():
            if method == "adagrad":
                continue
            found, _ = compared(self.race, method)
            if found is None:
                rates[method] = set(self.race.full(method))
                continue
            rates[method] = set(found.contenders[0])
            rates["adagrad"] = rates.get("adagrad", set()) | found.contenders[1]
        rates.setdefault("adagrad", set(self.race.full("adagrad")))
        return rates

    def _lacking(self, method: str, rates: Iterable[float], orders: int) -> list[Contender]:
        """The runs that these rates lack with the first orders; none where one of a rate's runs diverged."""
        runs = []
        for rate in sorted(rates):
            legs = self.race.at(method, rate)
            done = {leg.seed for leg in legs}
            if not any(leg.diverged for leg in legs):
                runs += [Contender(method, rate, seed) for seed in range(orders) if seed not in done]
        return runs

    def _run(self, runs: Sequence[Contender]) -> list[Leg]:
        made = self._runner.train(runs)
        place = {method: number for number, method in enumerate(self.settings.optimizers)}
        every = {(leg.method, leg.learning_rate, leg.seed): leg for leg in (*self.race.legs, *made)}
        ordered = sorted(every.values(), key=lambda leg: (place[leg.method], leg.learning_rate, leg.seed))
        self.race = replace(self.race, legs=tuple(ordered))
        return made


def passes_of_a_run(settings: RaceSettings, d: int, samples: int) -> float:
    """Passes over so many samples that one run of a model of d parameters takes."""
    evaluations = len(evaluation_steps(settings.steps, settings.evaluations)) - 1
    looks = evaluations / 3 + 2 / 3 * len(gradient_steps(settings, d, samples))
    return settings.steps * min(settings.batch_size, settings.rows) / samples + looks + 2 / 3


class _Runner:
    """Trains runs, keeps each finished leg and tells the progress."""

    def __init__(self, course: Course, legs: LegStore, progress: Progress | None, expected: dict[str, int]) -> None:
        self.course, self.legs, self.progress = course, legs, progress
        self.settings = course.settings
        self.passes = passes_of_a_run(course.settings, course.problem.d, course.problem.n)
        self.expected = expected
        self.done = dict.fromkeys(expected, 0)

    def train(self, runs: Sequence[Contender]) -> list[Leg]:
        """The legs of the runs, in their order."""
        for method in self.done:
            asked = sum(run.method == method for run in runs)
            self.expected[method] = max(self.expected[method], self.done[method] + asked)
        made: dict[Contender, Leg] = {}
        alone: list[Contender] = []
        for group in grouped(self.course.trained, self.settings, runs):
            legs = self._stored(group)
            if legs is None and len(group) == 1:
                alone += group
                continue
            made.update(zip(group, self._stack(group) if legs is None else legs, strict=True))
            for run in group:
                self.done[run.method] += 1
            self._tell()
        made.update(self._alone(alone))
        return [made[run] for run in runs]

    def finish(self, method: str) -> None:
        """The method needs no further run."""
        self.expected[method] = self.done[method]
        self._tell()

    def _stored(self, group: Sequence[Contender]) -> list[Leg] | None:
        """Runs that are trained together from the store: all of them or none."""
        legs = [leg for run in group if (leg := self.legs.get(run.key(self.settings.course))) is not None]
        return legs if len(legs) == len(group) else None

    def _stack(self, group: Sequence[Contender]) -> list[Leg]:
        """Runs that are trained together, anew."""
        legs = run_stack(self.course, group, lambda share: self._tell(share * len(group)))
        for leg in legs:
            self.legs.put(leg)
        return legs

    def _alone(self, runs: Sequence[Contender]) -> dict[Contender, Leg]:
        """Runs that train alone, several at once where there are processes for it.

        The first orders go first, so that a race that is stopped has some of them complete. Where one failed its run is
        made here, and what that raises is told.
        """
        runs = sorted(runs, key=lambda run: run.seed)
        ended: dict[Contender, Counted] = {}
        shares: dict[Contender, float] = {}

        def tick(run: Contender, share: float) -> None:
            shares[run] = share
            self._tell(sum(shares.values()))

        def end(run: Contender, made: Counted | None) -> None:
            ended[run] = made or counted(self.course, run, partial(tick, run))
            shares.pop(run, None)
            self.legs.put(ended[run].leg)
            self.done[run.method] += 1
            self._tell(sum(shares.values()))

        try:
            if min(len(runs), self.course.processes) > 1:
                side_by_side(partial(counted, self.course), runs, self.course.processes, tick, end)
            else:
                for run in runs:
                    end(run, None)
        finally:
            # In the order of the runs: sums of floats depend on it.
            for run in runs:
                for problem, passes in zip(
                    self.course.problems, ended[run].passes if run in ended else (), strict=False
                ):
                    problem.passes.add(passes)
        return {run: made.leg for run, made in ended.items()}

    def _tell(self, more: float = 0.0) -> None:
        if self.progress is not None:
            done, total = sum(self.done.values()) + more, sum(self.expected.values())
            self.progress(STAGE, done * self.passes, total * self.passes)
