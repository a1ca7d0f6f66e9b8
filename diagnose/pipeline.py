"""The run: open, measure, train, answer; every stage is stored as it ends, and a stored one is taken over."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from torch import Tensor

from diagnose import __version__
from diagnose.continuation import going_on, holds, inputs, without
from diagnose.errors import InputError
from diagnose.events import Events, Silent
from diagnose.finite import finite, not_finite, storable
from diagnose.inputs import Opened, open_task
from diagnose.limits import Work, recorded
from diagnose.planning.budget import Budget, OutOfTime, advised, budget_cut
from diagnose.planning.plan import measured
from diagnose.settings import (
    Optimizer,
    Resolved,
    Settings,
    check,
    command_line,
    own_optimizers,
)
from diagnose.stages.across import NOT_REACHED, derived
from diagnose.stages.bench import Bench, Update
from diagnose.stages.estimate import Pace, Shape
from diagnose.stages.order import STAGES, Stage
from diagnose.stages.training import NO_TRAINING, race_settings
from diagnose.store import Store
from diagnose.training.optimizer_digest import digests
from diagnose.training.racing import finished
from diagnose.training.runs import LegStore, MemoryStore
from diagnose.training.threads import one_thread, short
from estimators.results import Finding
from reports.record.diagnosis import PARTS, SCHEMA, Costs, Diagnosis, Task, absent, as_read
from reports.words.sentences import stage_line

LIBRARIES = ("torch", "transformers", "numpy", "scipy", "pandas", "scikit-learn", "safetensors")
NOTE_EVERY = 1.0
"""Seconds between two notes of the cost of a running stage."""
OPENING = "opening"
"""The stage of what is found while model and data are opened."""


def run(model: Any, data: Any, loss: Any = None, **settings: Any) -> Diagnosis:
    """Diagnose a model on data.

    Args:
        model: a ``torch.nn.Module`` (never changed), or whatever the command takes.
        data: a name, a path, ``(inputs, targets)``, a mapping of tensors with ``labels``, or a DataLoader.
        loss: ``"cross-entropy"``, ``"logistic"``, ``"squared"`` or a function (output, targets) -> losses of
            shape (n,).
        **settings: the command's options with underscores (``batch_size=``, ``training=False``); with ``out=``
            the folder of the command is written, without it nothing is.

    Raises:
        InputError: what the command would exit with 2 for.

    Examples:
        >>> import torch
        >>> import diagnose
        >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> y = (x[:, 0] > 0).float() * 2 - 1
        >>> result = diagnose.run(torch.nn.Linear(3, 1), (x, y), loss="logistic", steps=8, skip="smoothness")
        >>> result.status, result.task.parameters, result.smoothness.density, result.smoothness.why["density"]
        ('finished', 4, None, 'skipped (--skip smoothness)')
    """
    known = [item.name for item in fields(Settings)]
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise InputError(f"unknown setting `{name}`", "diagnose.run", f"did you mean `{near[0]}`?" if near else "")
    return execute(Settings(loss=loss, **settings), model, data)


def execute(settings: Settings, model: Any, data: Any, *, command: str = "", events: Events | None = None) -> Diagnosis:
    """Run what is missing and return the whole; writes the folder ``settings.out`` where one is given.

    Raises:
        InputError: see :func:`run`.
        KeyboardInterrupt: after what is known was stored with status "interrupted".
    """
    events, began = events or Silent(), time.perf_counter()
    check(settings)
    opened, resolved = open_task(model, data, settings)
    own = own_optimizers(settings)
    compared = comparable(opened, resolved, own)
    new = started(opened, resolved, compared, command or command_line(settings, model, data))
    if settings.out is None:
        attempt = _Attempt(opened, resolved, own, None, events, new, began)
        events.opened(opened.understood)
        return attempt.finish()
    with Store(settings.out) as store:
        known = store.opened(compared, settings.fresh) or new
        new = replace(new, settings={**new.settings, **recorded(known.settings, resolved.budget)})
        if known.settings != new.settings:
            known = going_on(known, new)
        if known.status == "finished":
            events.opened(opened.understood)
            if not store.reported:
                store.report()
            return known
        attempt = _Attempt(opened, resolved, own, store, events, known, began)
        events.opened(opened.understood)
        if taken := [stage for stage in known.stages if holds(stage, known)]:
            events.resumed(taken)
        return attempt.finish()


class _Attempt:
    """One attempt at the stages that are missing."""

    def __init__(
        self,
        opened: Opened,
        resolved: Resolved,
        own: Mapping[str, Optimizer],
        store: Store | None,
        events: Events,
        known: Diagnosis,
        opening: float,
    ) -> None:
        self.store, self.events = store, events
        self.budget: Budget | None = None
        self.measured: tuple[Work, Shape, Pace | None] | None = None
        if resolved.budget is not None:
            spent = (known.cost.seconds or 0.0) + time.perf_counter() - opening
            self.budget = Budget(resolved.budget, spent, known.settings)
        self.began = time.perf_counter()
        self.before = known.cost
        legs: LegStore = store if store is not None else MemoryStore()
        self.stage, self.stage_began, self.noted = "", self.began, self.began
        self.seconds = dict(known.cost.stages or {})
        self.step_seconds = dict(known.cost.step_seconds or {})
        self.bench = Bench.build(opened, resolved, legs, self._progress, own)
        self.short = short(self.bench.problem)
        # Of a stage that was stopped while it was stored files may hold more than the result names.
        for stage in STAGES:
            known = known if stage in known.stages else without(stage, known)
        self.known = replace(known, task=replace(known.task, parameters=self.bench.problem.d))
        self._warn(OPENING, (*opened.findings, *self.bench.problem.findings))
        self._save("started")

    def finish(self) -> Diagnosis:
        try:
            for stage, measure in STAGES.items():
                if holds(stage, self.known):
                    continue
                if stage in self.known.stages:
                    self.known = without(stage, self.known)
                    self._save("started")
                self.stage, self.stage_began = stage, time.perf_counter()
                with one_thread(stage != "training" and self.short):  # which has a rule of its own
                    update = self._within_budget(stage, measure) if self.budget else measure(self.bench, self.known)
                spent = time.perf_counter() - self.stage_began
                self._take(stage, update)
                if update.amount:
                    line = stage_line(stage, getattr(self.known, stage))
                    self.events.finished(stage, update.amount, spent, line)
        except KeyboardInterrupt:
            self.seconds = self._stages()
            self._save("interrupted")
            raise
        self._save("finished")
        if self.store:
            self.store.report()
        return self.known

    def _within_budget(self, stage: str, measure: Stage) -> Update:
        """The stage with the cuts that the time left takes; cuts are stored before it begins."""
        assert self.budget is not None
        if self.measured is None:
            self.measured = measured(self.bench, None if self.budget.recorded else self.budget.clock)
        whole, shape, pace = self.measured
        done = [name for name in STAGES if holds(name, self.known)]
        work = self.budget.cut(whole, shape, pace, done)
        self.bench = replace(self.bench.at(work), affordable=self.budget.affordable, late=self.budget.late)
        samples, curvature = work.resolved.samples, work.resolved.curvature_samples
        self.known = replace(self.known, task=replace(self.known.task, samples=samples, curvature_samples=curvature))
        self._record()
        self.budget.begin(stage)
        try:
            update = measure(self.bench, self.known)
        except OutOfTime:
            self.budget.overrun(stage, self._complete() if stage == "training" and not self.budget.blocks else None)
            self.bench = self.bench.at(whole.with_cuts(self.budget.cuts))
            self._record()
            update = measure(self.bench, self.known)
        self.budget.ended()
        self._record()
        cuts = self.budget.cuts
        update = replace(update, findings=tuple(advised(finding, cuts) for finding in update.findings))
        if stage == list(STAGES)[-1] and self.budget.cuts:
            update = replace(update, findings=(*update.findings, budget_cut(whole, self.budget)))
        return update

    def _complete(self) -> dict[str, Any] | None:
        """What is complete of a race that was stopped in its first block, as cuts of it; None where nothing is."""
        bench, whole = self.bench, race_settings(self.bench, self.known.smoothness.sharpness)
        if (race := finished(bench.problem, whole, bench.legs, bench.trained)) is None:
            return None
        cuts: dict[str, Any] = {"seeds": race.seeds}
        if race.optimizers != whole.optimizers:
            cuts["optimizers"] = list(race.optimizers)
        return cuts | ({"batch_sizes": None} if bench.resolved.batch_sizes else {})

    def _record(self) -> None:
        assert self.budget is not None
        self.known = replace(self.known, settings={**self.known.settings, **self.budget.stored()})
        self._save("started")

    def _progress(self, stage: str, done: float, total: float) -> None:
        """Pass it on, and now and then note the cost so far: a killed process has no time to.

        The stage that runs may borrow from several estimators, which call themselves otherwise. With a budget a stage
        ends here where the time is over.
        """
        if self.budget is not None and self.stage:
            self.budget.progress(self.stage, done)
        self.events.progress(self.stage or stage, done, total)
        now = time.perf_counter()
        if self.store and self.stage and now - self.noted > NOTE_EVERY:
            self.noted = now
            self.store.spend(self._cost(self._stages()))

    def _stages(self) -> dict[str, float]:
        """Seconds by stage, the running one included."""
        if not self.stage:
            return self.seconds
        running = self.seconds.get(self.stage, 0.0) + time.perf_counter() - self.stage_began
        return {**self.seconds, self.stage: running}

    def _cost(self, stages: Mapping[str, float]) -> Costs:
        return Costs(
            seconds=(self.before.seconds or 0.0) + time.perf_counter() - self.began,
            forward_backward_passes=(self.before.forward_backward_passes or 0.0) + self.bench.passes,
            attempts=(self.before.attempts or 0) + 1,
            stages=stages,
            step_seconds=self.step_seconds or None,
            why={} if self.step_seconds else {"step_seconds": "no method has been trained"},
        )

    def _take(self, stage: str, update: Update) -> None:
        self.seconds, self.stage = self._stages(), ""
        self.step_seconds |= update.step_seconds
        dtype = self.known.task.dtype or ""
        vectors, places = finite({kind: _arrays(part) for kind, part in update.vectors.items()})
        parts = {}
        for name, part in update.parts.items():
            finite_part, found = storable(part, name, dtype)
            parts[name] = as_read(finite_part)
            places = [*found, *places]
        read = {**self.known.inputs, stage: inputs(stage, self.known)}
        ended = {*self.known.stages, stage}
        self.known = derived(
            replace(
                self.known,
                **parts,
                vectors={**self.known.vectors, **vectors},
                runs=self.known.runs if update.runs is None else update.runs,
                stages=tuple(name for name in STAGES if name in ended),
                inputs={name: read[name] for name in STAGES if name in ended},
            )
        )
        self._warn(stage, (*update.findings, *not_finite(stage, places, dtype)))
        self._save("started")

    def _warn(self, stage: str, findings: Sequence[Finding]) -> None:
        """Put what a stage has found in place of what it had found before, in the order of the stages.

        An estimator that a stage borrows calls itself otherwise.
        """
        ours = (replace(finding, stage=stage) for finding in findings)
        rest = (finding for finding in self.known.warnings if finding.stage != stage)
        order = {name: place for place, name in enumerate((OPENING, *STAGES))}
        warnings = sorted((*rest, *ours), key=lambda finding: order.get(finding.stage, len(order)))
        self.known = replace(self.known, warnings=tuple(warnings))

    def _save(self, status: Literal["started", "finished", "interrupted"]) -> None:
        self.known = replace(self.known, status=status, cost=self._cost(self.seconds))
        if self.store:
            self.store.save(self.known)


def started(opened: Opened, resolved: Resolved, compared: Mapping[str, Any], command: str) -> Diagnosis:
    """A diagnosis in which no stage has run."""
    task = Task(
        model=opened.model_name,
        data=opened.data_name,
        loss=compared["loss"],
        parameters=sum(p.numel() for p in opened.model.parameters() if p.requires_grad),
        rows=opened.rows,
        samples=resolved.samples,
        batch_size=resolved.batch_size,
        seed=resolved.seed,
        seeds=None,
        dtype=resolved.dtype,
        device=resolved.device,
        fingerprint=opened.fingerprint,
        curvature_samples=resolved.curvature_samples,
        training_rows=opened.training_rows if resolved.training else None,
        understood=list(opened.understood),
        why=({} if resolved.training else {"training_rows": NO_TRAINING}) | {"seeds": NOT_REACHED},
    )
    parts = {name: absent(kind, NOT_REACHED) for name, kind in PARTS.items() if name not in ("task", "cost")}
    return Diagnosis(
        schema=SCHEMA,
        tool_version=__version__,
        versions={"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        status="started",
        command=command,
        task=task,
        warnings=(),
        cost=Costs(seconds=0.0, forward_backward_passes=0.0, attempts=0, stages={}, step_seconds=None),
        settings=compared,
        **parts,
    )


def comparable(opened: Opened, resolved: Resolved, own: Mapping[str, Optimizer]) -> dict[str, Any]:
    """What a folder is compared by: model, data, every resolved number, the fingerprint and the tool's version; and
    where optimizers of the user's race, a digest of each."""
    loss = opened.loss if isinstance(opened.loss, str) else getattr(opened.loss, "__name__", "function")
    numbers = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(resolved).items()}
    named = {"model": opened.model_name, "data": opened.data_name, **numbers, "loss": loss}
    told = {"own_optimizers": digests(own)} if own else {}
    return {**named, **told, "fingerprint": opened.fingerprint, "tool_version": __version__}


def _arrays(vector: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {
        name: t.detach().cpu().float().numpy() if t.element_size() < 4 else t.detach().cpu().numpy()
        for name, t in vector.items()
    }
