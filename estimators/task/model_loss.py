"""The loss that a transformers model gives itself against the one that is measured, and what to change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from estimators.errors import InputError
from estimators.numbers.formats import COARSE
from estimators.task import losses, model_kinds
from estimators.task.function import Function

BY_FUNCTION = "in Python, give the loss as a function (output, targets) -> one loss for each sample"
SHIFT_HERE = (
    "its own loss does not shift the labels; name a factory, `package.module:factory`, of a module that wraps it and "
    "returns its logits alone, without a loss: then they are shifted here"
)


def refuse_another_loss(problem: Function) -> None:
    """InputError where a transformers model gives another loss itself than ours is of one sequence alone."""
    if problem.loss_name != "cross-entropy" or not isinstance(problem.samples, dict):
        return
    name = type(problem.model).__name__
    other = model_kinds.other_loss(problem.model)
    if other is not None:
        raise InputError(
            f"the model is made for another loss: problem_type {other}",
            name,
            f"set `problem_type` to null in its config if each sample has one class; else {BY_FUNCTION}",
        )
    one = problem.take(slice(0, 1))
    assert isinstance(one, dict)
    with torch.no_grad():
        theirs = _theirs(problem, one)
        if theirs is None:
            return
        ours = float(problem.losses(problem.parameters, problem.trimmed(one))[0])
        if not _equal(problem, ours, theirs):
            what = f"the model's own loss of a sample is {theirs:.6g}, cross-entropy of its labels {ours:.6g}"
            raise InputError(what, name, _way_out(problem, one, ours, theirs))


def _theirs(problem: Function, one: dict[str, Tensor]) -> float | None:
    loss = problem.own_loss(one)
    return None if loss is None else float(loss)


def _equal(problem: Function, ours: float, theirs: float) -> bool:
    """Up to rounding (1e-7 in float32, 5e-3 in bfloat16, as measured); a balancing term may be 1e-3 of the loss."""
    tolerance = 2e-2 if problem.precision in COARSE else 1e-5
    return abs(ours - theirs) <= tolerance * max(abs(theirs), 0.1)


def _way_out(problem: Function, one: dict[str, Tensor], ours: float, theirs: float) -> str:
    """The entries of its config that, tried here, make its loss ours; else a way that fits how it differs."""
    entries = _entries(problem)
    tries = [{name: value} for name, value in entries.items()]
    for changes in [*tries, entries] if len(tries) > 1 else tries:
        with _changed(problem, changes):
            changed = _theirs(problem, one)
        if changed is not None and _equal(problem, ours, changed):
            words = ", ".join(f"`{name}` to {str(value).lower()}" for name, value in changes.items())
            return f"set {words} in its config (config.json), for cross-entropy alone; or {BY_FUNCTION}"
    if model_kinds.head(problem.model) == "causal":
        plain = losses.cross_entropy(problem.output(problem.parameters, one), one["labels"])
        if _equal(problem, float(plain[0]), theirs):
            return f"{SHIFT_HERE}; or {BY_FUNCTION}"
    return BY_FUNCTION


def _entries(problem: Function) -> dict[str, Any]:
    """Entries of the config that add to a loss, with the value at which they add nothing."""
    config = getattr(model_kinds.transformer(problem.model), "config", None)
    values = {} if config is None else {**vars(config)}
    return {
        **{name: False for name, value in values.items() if name == "output_router_logits" and value is True},
        **{
            name: 0.0
            for name, value in values.items()
            if ("loss" in name or "smoothing" in name) and isinstance(value, float) and value
        },
        **{
            name: model_kinds.IGNORED
            for name, value in values.items()
            if name == "ignore_index" and value != model_kinds.IGNORED
        },
    }


@contextlib.contextmanager
def _changed(problem: Function, changes: Mapping[str, Any]) -> Iterator[None]:
    """A config with other entries while it lasts, and the attributes that the model copied from it."""
    inner: Any = model_kinds.transformer(problem.model)
    holders = [inner.config, inner]
    before = [(holder, name, vars(holder)[name]) for holder in holders for name in changes if name in vars(holder)]
    try:
        for holder, name, _ in before:
            setattr(holder, name, changes[name])
        yield
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)
