"""A run within a given time, by made-up clocks and paces: what is cut, in which order, and that it is kept."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import diagnose
from diagnose import pipeline
from diagnose.errors import InputError
from diagnose.limits import NUMBERS, Work, budget_reason, cuts_of, recorded, typed
from diagnose.planning import plan
from diagnose.planning.budget import Budget, OutOfTime, advised, choose, in_words, ladder
from diagnose.planning.costs import planned, seconds_of
from diagnose.settings import Settings, resolve
from diagnose.stages.bench import Bench, Update
from diagnose.stages.estimate import Pace, Shape
from diagnose.stages.order import STAGES
from diagnose.training.runs import RaceSettings
from estimators.results import Finding
from reports.record.diagnosis import PAIR, Diagnosis

PACE = Pace(
    gradient=0.01, noise=0.1, product=0.01, graph=0.01, bracket=0.0, step=1e-3, wave=0.0, evaluation=0.01, ending=0.02,
    alone=1e-3,
)  # fmt: skip
QUICK: dict[str, Any] = {"steps": 20, "samples": 120, "seeds": 3}


def network(**asked: Any) -> tuple[Work, Shape]:
    """An MLP of 8,778 parameters on 1,024 of 1,797 rows."""
    resolved = resolve(Settings(**asked), "network", 8_778, 1_797)
    race = RaceSettings(
        steps=resolved.steps,
        batch_size=resolved.batch_size,
        rows=resolved.samples,
        seeds=4,
        seed=0,
        evaluations=resolved.evaluations,
        optimizers=resolved.optimizers,
    )
    shape = Shape(
        d=8_778,
        samples=resolved.samples,
        curvature=resolved.curvature_samples,
        rows=1_797,
        linear=False,
        without_curvature=False,
        formed=False,
        shared=True,
        held=1000,
        number=4,
        race=race,
    )
    return Work(resolved), shape


def whole(work: Work, shape: Shape) -> float:
    return seconds_of(planned(work, shape, PACE))


def test_nothing_is_cut_where_the_time_is_enough() -> None:
    work, shape = network()
    assert choose(work, shape, PACE, whole(work, shape)) == {}


@pytest.mark.parametrize("share", [0.99, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05])
def test_what_is_cut_fits_the_time(share: float) -> None:
    work, shape = network()
    seconds = share * whole(work, shape)
    cuts = choose(work, shape, PACE, seconds)
    assert cuts
    assert seconds_of(planned(work.with_cuts(cuts), shape, PACE)) <= seconds
    assert in_words(work, cuts)


def test_every_cut_takes_less_time_or_as_much() -> None:
    work, shape = network(batch_sizes=(8, 16))
    before, cuts = whole(work, shape), dict[str, Any]()
    for name, value in ladder(work):
        cuts[name] = [*cuts.get(name, ()), value] if name == "left_out" else value
        after = seconds_of(planned(work.with_cuts(cuts), shape, PACE))
        assert after <= before, name
        before = after
    assert [row.stage for row in planned(work.with_cuts(cuts), shape, PACE)] == ["noise", "verdict"]


def test_details_of_curvature_go_first_and_steps_last() -> None:
    """The question is the speed-up: it is asked of the same race as long as anything else is left to cut."""
    work, shape = network()
    first = choose(work, shape, PACE, 0.9 * whole(work, shape))
    assert set(first) <= {"points", "left_out"}
    assert first.get("left_out", ["generalized_smoothness"]) == ["generalized_smoothness"]
    order = [name for name, _ in ladder(work)]
    assert order.index("optimizers") < order.index("samples") < order.index("evaluations") < order.index("steps")
    race = seconds_of([row for row in planned(work, shape, PACE) if row.stage == "training"])
    cuts = choose(work, shape, PACE, 0.6 * race)
    assert cuts["optimizers"] == ["sgd", "adagrad"]
    assert "steps" not in cuts
    assert choose(work, shape, PACE, 0.1 * race)["steps"] < 500


def test_the_pair_races_as_long_as_anything_does() -> None:
    work, shape = network(optimizers=("adam", "sgd", "adagrad"))
    cuts = choose(work, shape, PACE, 0.01)
    assert cuts["left_out"][-1] == "training"
    assert [value for name, value in ladder(work) if name == "optimizers"] == [["sgd", "adagrad"]]
    alone, _ = network(optimizers=("adam", "rmsprop"))
    assert [name for name, _ in ladder(alone) if name == "optimizers"] == []


def test_cuts_that_save_nothing_are_not_made() -> None:
    """Where the race alone is too long for the time, products that take a hundredth of a second each stay."""
    work, shape = network()
    fast = replace(PACE, product=1e-6, graph=1e-6)
    cuts = choose(work, shape, fast, 0.5 * seconds_of(planned(work, shape, fast)))
    assert not {"probes", "products", "density_starts", "one_norm", "curvature_samples"} & set(cuts)


def test_numbers_of_stages_that_are_done_stay() -> None:
    work, shape = network()
    cuts = {"probes": 16, "samples": 256, "left_out": ["smoothness"]}
    done = ("noise", "smoothness", "spectrum", "hessian_diagonal")
    later = choose(work, shape, PACE, 1.0, done, cuts)
    assert {name: later[name] for name in ("probes", "samples")} == {"probes": 16, "samples": 256}
    assert later["left_out"][0] == "smoothness"
    assert not {"products", "curvature_samples"} & set(later)
    assert choose(work, shape, PACE, 1e6, done, cuts) == cuts


def test_every_number_has_a_stage_and_words() -> None:
    work, _ = network(batch_sizes=(8, 16), seeds=8)
    names = {name for name, _ in ladder(work)} - {"left_out"}
    assert names <= set(NUMBERS)
    assert {number.stage for number in NUMBERS.values()} <= set(STAGES)
    for name in names:
        assert work.number(name) is not None


def test_a_stage_reads_its_own_cuts_and_those_of_its_samples() -> None:
    settings = {"budget": 60.0, "cuts": {"samples": 32, "probes": 16, "curvature_samples": 8, "left_out": ["spectrum"]}}
    assert cuts_of("noise", settings) == {"samples": 32}
    assert cuts_of("hessian_diagonal", settings) == {"samples": 32, "curvature_samples": 8, "probes": 16}
    assert cuts_of("spectrum", settings)["left_out"]
    assert cuts_of("noise", {}) == {}
    assert recorded(settings, 60.0) == {"cuts": settings["cuts"]}
    assert recorded(settings, 90.0) == recorded(settings, None) == recorded({}, 60.0) == {}


# -- the clock ---------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_block_of_the_race_is_affordable_at_the_pace_of_the_race() -> None:
    clock = Clock()
    budget = Budget(100.0, spent=10.0, clock=clock)
    budget.begin("training")
    clock.now += 40.0
    budget.progress("training", 400.0)
    assert budget.left == 50.0
    assert budget.affordable(499.0)
    assert not budget.affordable(501.0)
    assert budget.cuts == {"race_blocks": 1}


def test_a_race_that_goes_on_ends_where_it_ended() -> None:
    budget = Budget(1.0, spent=1e9, recorded={"cuts": {"race_blocks": 2}, "uncut_seconds": 50.0}, clock=Clock())
    budget.begin("training")
    assert [budget.affordable(1e9) for _ in range(3)] == [True, True, False]
    assert budget.cuts == {"race_blocks": 2}


def test_a_stage_that_runs_past_the_time_is_left_out() -> None:
    clock = Clock()
    budget = Budget(10.0, clock=clock)
    budget.progress("spectrum", 1.0)
    clock.now += 12.0
    budget.progress("noise", 1.0)
    with pytest.raises(OutOfTime):
        budget.progress("spectrum", 2.0)
    budget.overrun("spectrum")
    assert budget.cuts == {"left_out": ["spectrum"]}


def test_a_race_that_runs_past_the_time_ends_with_the_blocks_that_are_done() -> None:
    clock = Clock()
    budget = Budget(10.0, clock=clock)
    budget.begin("training")
    assert budget.affordable(1.0)
    assert budget.affordable(1.0)
    clock.now += 12.0
    with pytest.raises(OutOfTime):
        budget.progress("training", 3.0)
    budget.overrun("training")
    budget.begin("training")
    budget.progress("training", 3.0)
    assert [budget.affordable(1.0) for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("cuts", "fewer"), [({}, False), ({"steps": 20}, False), ({"seeds": 1}, True), ({"race_blocks": 0}, True)]
)
def test_a_race_with_fewer_orders_is_one_that_the_budget_ends(cuts: dict[str, Any], fewer: bool) -> None:
    assert network()[0].with_cuts(cuts).limits.fewer_orders == fewer


def test_a_race_that_runs_past_the_time_in_its_first_block_keeps_what_is_complete() -> None:
    clock = Clock()
    budget = Budget(10.0, clock=clock)
    budget.begin("training")
    clock.now += 12.0
    with pytest.raises(OutOfTime):
        budget.progress("training", 3.0)
    budget.overrun("training", {"seeds": 2})
    assert budget.cuts == {"seeds": 2, "race_blocks": 0}
    for late in (budget, Budget(10.0, 1e3, {"cuts": budget.cuts}, clock)):
        late.begin("training")
        late.progress("training", 3.0)
    budget = Budget(10.0, clock=clock)
    budget.begin("training")
    budget.overrun("training", None)
    assert budget.cuts == {"left_out": ["training"]}


def test_a_machine_that_became_slower_is_seen_by_the_noise() -> None:
    """What follows is cut as if everything took as many times as long as planned as the noise did."""
    work, shape = network()
    slow = Pace(**{name: 1000 * value for name, value in vars(PACE).items()})
    seconds = 3 * whole(work, shape) * 1000

    def cuts(factor: float) -> dict[str, Any]:
        clock = Clock()
        budget = Budget(seconds, clock=clock)
        budget.cut(work, shape, slow, ())
        budget.begin("noise")
        clock.now += factor * next(row.seconds for row in planned(work, shape, slow) if row.stage == "noise")
        budget.ended()
        budget.cut(work, shape, slow, ("noise",))
        return budget.cuts

    assert cuts(0.5) == cuts(1.0) == {}
    assert "generalized_smoothness" in cuts(6.0)["left_out"]


def test_a_stage_is_late_when_those_after_it_need_what_is_left() -> None:
    work, shape = network()
    rows = planned(work, shape, PACE)
    rest = seconds_of([row for row in rows if row.stage not in ("noise", "spectrum")])
    clock = Clock()
    budget = Budget(2 * seconds_of(rows), clock=clock)
    assert not budget.late()
    budget.begin("spectrum")
    budget.cut(work, shape, PACE, ("noise",))
    assert not budget.late()
    clock.now += budget.left - rest / 0.84
    assert not budget.late()
    clock.now += budget.left - rest / 0.86
    assert budget.late()


# -- runs --------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine on which everything takes a thousand times as long as its clock, which stands still, shows."""
    taken: list[str] = []

    def pace(*_: Any) -> Pace:
        taken.append("pace")
        seconds = {name: 1000 * value for name, value in vars(PACE).items()}
        return Pace(**{**seconds, "bracket": 100.0})

    monkeypatch.setattr(plan, "pace_of", pace)
    monkeypatch.setattr(pipeline, "Budget", partial(Budget, clock=Clock()))
    return taken


def cut_finding(found: Diagnosis) -> list[Any]:
    return [warning for warning in found.warnings if warning.code == "budget-cut"]


def test_a_small_budget_ends_with_what_can_be_had_and_says_what_was_cut(slow: list[str]) -> None:
    found = diagnose.run("logreg", "breast-cancer", budget="20m", **QUICK)
    assert found.status == "finished"
    assert found.noise.l1 is not None
    cuts = found.settings["cuts"]
    assert "generalized_smoothness" in cuts["left_out"]
    assert found.generalized_smoothness.coverage is None
    assert found.generalized_smoothness.why["coverage"] == budget_reason(1200) == "cut to keep `--budget 20m`"
    (finding,) = cut_finding(found)
    assert finding.severity == "note"
    assert "without generalized smoothness" in finding.found
    assert finding.action.startswith("`--budget ")
    assert found.settings["uncut_seconds"] > 1200


def test_a_spectrum_that_is_late_keeps_its_bounds(slow: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Linear(30, 80), nn.Tanh(), nn.Linear(80, 3)), torch.randn(40, 30)
    how: dict[str, Any] = {"training": False, "skip": ("smoothness", "hessian-diagonal"), "seed": 0}
    y = torch.arange(40) % 3
    monkeypatch.setattr(Budget, "late", lambda self: True)
    ended = diagnose.run(model, (x, y), "cross-entropy", budget=1e6, **how)
    late = ended.spectrum
    (finding,) = (warning for warning in ended.warnings if warning.code == "not-converged")
    assert "larger `--budget`" in finding.action
    whole = diagnose.run(model, (x, y), "cross-entropy", **how).spectrum
    assert late.largest_lower is not None
    assert late.largest_upper is not None
    assert whole.largest is not None
    assert (late.steps or 0) < (whole.steps or 0)
    assert late.largest_lower <= whole.largest <= late.largest_upper


def test_the_least_is_a_measurement(slow: list[str]) -> None:
    found = diagnose.run("logreg", "breast-cancer", budget=1, **QUICK)
    assert found.noise.l1 is not None
    assert found.training.speedup is None
    assert found.training.why["speedup"] == budget_reason(1)
    assert found.verdict.answer == "undecided"
    (few,) = (warning for warning in found.warnings if warning.code == "too-few-samples")
    assert few.action == f"use a larger `--budget`: this one allows {found.task.samples} samples"


def test_advice_that_a_budget_did_not_cut_stays() -> None:
    finding = Finding("few", "warning", "noise", "found", "meaning", "use `--samples 100` or `--seeds 8`")
    assert advised(finding, {"steps": 20, "left_out": ["spectrum"], "batch_sizes": None}) == finding
    assert advised(finding, {"samples": 1_024}).action == "use a larger `--budget`: this one allows 1,024 samples"


def test_a_budget_that_is_enough_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "Budget", partial(Budget, clock=Clock()))
    how: dict[str, Any] = {**QUICK, "optimizers": ("sgd", "adagrad"), "learning_rates": (0.1, 0.3)}
    with_budget, without = (diagnose.run("logreg", "breast-cancer", **how, **extra) for extra in ({"budget": 1e6}, {}))
    assert with_budget.settings["cuts"] == {}
    assert not cut_finding(with_budget)
    one, two = with_budget.to_json(), without.to_json()
    for key in ("noise", "smoothness", "spectrum", "hessian_diagonal", "training", "generalized_smoothness", "verdict"):
        assert one[key] == two[key]


class Alone(nn.Module):
    """A forward of its own, so that runs train one by one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.first(x).tanh())


def complete(folder: Path) -> int:
    """Orders of the batches that SGD and AdaGrad have run at three rates or more."""
    legs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    have = [{(leg["seed"], leg["learning_rate"]) for leg in legs if leg["method"] == name} for name in PAIR]
    counts: list[list[int]] = [[sum(seed == order for seed, _ in runs) for order in range(4)] for runs in have]
    return min(sum(count >= 3 for count in row) for row in counts)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(("runs", "least"), [(25, 1), (4, None)])
def test_a_race_stopped_in_its_first_block_shows_the_orders_that_are_complete(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runs: int, least: int | None
) -> None:
    """And goes on, with a larger budget, to the same as a run that was never stopped."""
    seen, latest = [0.0], [math.inf]

    class Late(Budget):
        def progress(self, stage: str, done: float) -> None:
            if stage == "training":
                seen.append(done)
                if done > latest[0]:
                    latest[0] = math.inf
                    raise OutOfTime(stage)
            super().progress(stage, done)

    monkeypatch.setattr(plan, "pace_of", lambda *_: PACE)
    monkeypatch.setattr(pipeline, "Budget", partial(Late, clock=Clock()))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 4, generator=generator)
    data = x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    how: dict[str, Any] = {"steps": 40, "batch_size": 4, "optimizers": ("sgd", "adagrad")}
    how |= {"skip": ("smoothness", "spectrum", "hessian-diagonal", "generalized-smoothness")}
    fresh = diagnose.run(Alone(), data, budget="20h", **how)
    latest[0] = runs * max(seen) / len({(row["method"], row["learning_rate"], row["seed"]) for row in fresh.runs})
    folder = str(tmp_path / "late")
    found = diagnose.run(Alone(), data, out=folder, budget="10h", **how)
    assert latest == [math.inf]
    orders = found.settings["cuts"].get("seeds")
    if least is None:
        assert found.settings["cuts"]["left_out"] == ["training"]
        assert found.training.why["speedup"] == budget_reason(36_000)
    else:
        assert found.settings["cuts"] == {"seeds": orders, "race_blocks": 0}
        assert least <= orders <= complete(tmp_path / "late") < 4
        assert found.training.speedup is not None
        assert found.training.speedup_interval is None
        assert found.training.decided_by == "budget"
        assert found.task.seeds == orders
        assert "A larger `--budget` lets it race" in (found.verdict.advice or "")
        assert f"orders of the batches auto → {orders}" in cut_finding(found)[0].found
    grown = diagnose.run(Alone(), data, out=folder, budget="20h", **how)
    assert grown.to_json()["training"] == fresh.to_json()["training"]
    assert grown.settings["cuts"] == {}


def test_without_a_budget_no_pace_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a measured time may influence the run")

    monkeypatch.setattr(plan, "pace_of", refuse)
    monkeypatch.setattr(pipeline, "Budget", refuse)
    found = diagnose.run("logreg", "breast-cancer", training=False, **QUICK)
    assert "cuts" not in found.settings
    assert not cut_finding(found)


@pytest.mark.usefixtures("no_figures")
def test_what_was_cut_is_kept_when_a_run_goes_on(
    slow: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    how = Settings(**QUICK, budget="20m")

    def stop(bench: Bench, known: Diagnosis) -> Update:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "STAGES", {**STAGES, "training": stop})
        with pytest.raises(KeyboardInterrupt):
            pipeline.execute(replace(how, out=str(tmp_path / "halted")), "logreg", "breast-cancer")
    halted = json.loads((tmp_path / "halted" / "result.json").read_text())["settings"]
    assert slow == ["pace"]
    assert halted["cuts"]
    pipeline.execute(replace(how, out=str(tmp_path / "halted")), "logreg", "breast-cancer")
    assert slow == ["pace"], "a run that goes on takes the cuts that were recorded, and no pace"

    def recorded(seconds: float, spent: float, _: Any) -> Budget:
        return Budget(seconds, spent, halted, Clock())

    monkeypatch.setattr(pipeline, "Budget", recorded)
    pipeline.execute(replace(how, out=str(tmp_path / "straight")), "logreg", "breast-cancer")
    bodies = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("straight", "halted")]
    for body in bodies:
        del body["cost"]
    assert bodies[0]["settings"] == {**halted}
    assert bodies[0] == bodies[1]


@pytest.mark.usefixtures("no_figures")
def test_a_larger_budget_goes_on_and_measures_what_was_cut(slow: list[str], tmp_path: Path) -> None:
    bodies = []
    for folder, budgets in (("grown", ("20m", "1000h")), ("fresh", ("1000h",))):
        for budget in budgets:
            how = Settings(**QUICK, budget=budget, out=str(tmp_path / folder))
            found = pipeline.execute(how, "logreg", "breast-cancer")
            assert (found.generalized_smoothness.coverage is None) == (budget == "20m")
        bodies.append(json.loads((tmp_path / folder / "result.json").read_text()))
        del bodies[-1]["cost"]
    assert bodies[0] == bodies[1]
    assert bodies[0]["settings"]["cuts"] == {}
    with pytest.raises(InputError, match="budget"):
        pipeline.execute(Settings(**QUICK, budget="20m", out=str(tmp_path / "fresh")), "logreg", "breast-cancer")


@pytest.mark.parametrize("seconds", [5, 90, 119.5, 120, 600, 3600, 5400, 86400])
def test_a_length_of_time_is_written_as_it_is_typed(seconds: float) -> None:
    assert resolve(Settings(budget=typed(seconds)), "linear", 10, 100).budget == seconds
