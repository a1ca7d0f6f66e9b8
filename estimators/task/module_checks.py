"""What a model's forward does beside returning its output, found out when a problem is opened.

Forward may write into its inputs or buffers, change what its modules hold (``module_state.py``), make sparse gradients,
or compute in a coarser number format than that of its weights. :class:`SideEffects` lets every forward see the same
numbers, and leaves those of the caller as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from estimators.numbers.formats import COARSE, coarsest
from estimators.results import Finding
from estimators.task.function import Function, Samples, inputs_of, mapped, targets_of, tensors_of
from estimators.task.lookups import UNNAMED, ShiftedPadding, Watch
from estimators.task.module_state import Place, Places, Snapshot, held_tensors, same_numbers, unchanged, undone
from estimators.task.side_effects import CAREFUL, SideEffects, changed_parameter

STAGE = "opening"
FEW = 4
"""Samples that are looked at, and samples with padding beside them."""
LISTED = 3
TRIED = 32
"""Attributes that are tried as stores of values made of parameters."""
ROUNDINGS = 64
"""Of the loss: what a padding row must move it by."""


def side_effects(problem: Function) -> SideEffects:
    """What the forward of a new problem changes.

    Cost: two forward passes and a gradient over a few samples; a forward pass for each tensor that a module holds
    beside parameters and buffers, and some more gradients where that does not reach all parameters.

    Raises:
        InputError: forward changes parameters that are to be measured.
    """
    few = problem.take(slice(0, FEW))
    with problem.measuring(), unchanged(problem.model) as snapshot:
        found, unreached = _observed(problem, few, snapshot)
        _refuse_changed_parameters(problem)
        found = replace(found, state=_overwritten(problem))
        found = replace(found, places=(*found.places, *_refilled(problem, few, found)))
        return _with_training_only(problem, few, found, unreached)


def _observed(problem: Function, few: Samples, snapshot: Snapshot) -> tuple[SideEffects, list[str]]:
    """What a forward without gradients and one with them do, and the parameters that the loss does not reach."""
    watch, formats = Watch(), _Formats()
    changed, places, unreached = [], dict[tuple[Any, ...], tuple[Place, Any]](), list[str]()
    before = {name: p._version for name, p in problem.parameters.items()}
    for with_gradient in (False, True):
        samples, leaves = mapped(few, Tensor.clone), problem.leaves()
        versions = [tensor._version for tensor in tensors_of(samples)]
        try:
            with watch, formats, torch.set_grad_enabled(with_gradient):
                loss = problem.losses(leaves, problem.trimmed(samples)).sum()
            unreached = without_gradient(loss, leaves) if with_gradient else []
        except (Exception, SystemExit):
            return CAREFUL, []  # the checks that follow say what it is
        changed.append(_changed(samples, few, versions))
        places |= {change[0].address: change for change in snapshot.put_back()}
    named = _by_address(problem)
    inputs, targets = (any(each) for each in zip(*changed, strict=True))
    found = SideEffects(
        inputs=inputs,
        targets=targets,
        parameters=frozenset(name for name, p in problem.parameters.items() if p._version != before[name]),
        places=tuple(places.values()),
        sparse=watch.sparse,
        paddings=tuple((named.get(at, UNNAMED), row) for at, row in sorted(watch.paddings) if named.get(at) != ""),
        coarse=coarsest(watch.formats | formats.formats) if watch.formats | formats.formats else None,
    )
    return found, unreached


def without_gradient(loss: Tensor, leaves: Mapping[str, Tensor]) -> list[str]:
    """Those of the leaves that the loss does not reach."""
    if not loss.requires_grad:
        return list(leaves)
    parts = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return [name for name, part in zip(leaves, parts, strict=True) if part is None]


# -- parameters and buffers ------------------------------------------------------------------------


def _refuse_changed_parameters(problem: Function) -> None:
    given = dict(problem.model.named_parameters())
    for name, tensor in problem.parameters.items():
        if not same_numbers(tensor, given[name].detach()):
            raise changed_parameter(name)


def _overwritten(problem: Function) -> dict[str, Tensor]:
    """Buffers and frozen parameters whose numbers are no longer the model's; they get these back."""
    given = {**dict(problem.model.named_parameters()), **dict(problem.model.named_buffers())}
    state = {}
    for name, tensor in problem.fixed.items():
        if tensor.layout == torch.strided and not same_numbers(tensor, given[name].detach()):
            state[name] = given[name].detach().clone()
            tensor.copy_(state[name])
    return state


def _refilled(problem: Function, few: Samples, found: SideEffects) -> Places:
    """What modules hold and compute anew where it is not there, as what was made of the weights by a call before."""
    refilled: list[tuple[Place, Any]] = []
    other = copy(problem)
    other.effects = found
    for place, nothing in held_tensors(problem.model)[:TRIED]:
        with undone(((place, nothing),)), torch.no_grad():
            try:
                other.losses(other.parameters, other.trimmed(mapped(few, Tensor.clone)))
            except (Exception, SystemExit):
                continue  # forward needs it
            value = place.read()
        if value is not nothing and value is not None:
            refilled.append((place, nothing))
    return tuple(refilled)


def _with_training_only(problem: Function, few: Samples, found: SideEffects, unreached: list[str]) -> SideEffects:
    """With the parameters that the loss reaches in training mode alone."""
    if found.places and unreached:
        unreached = _still_unreached(problem, few, found)
    if not unreached:
        return found
    trained = _still_unreached(problem, few, found, training=True)
    return replace(found, training_only=tuple(name for name in unreached if name not in trained))


def _still_unreached(problem: Function, few: Samples, effects: SideEffects, training: bool = False) -> list[str]:
    """The parameters that the loss does not reach with these side effects undone; all where forward fails."""
    other = copy(problem)
    buffers = dict(problem.model.named_buffers())  # batch norm moves its statistics in training mode
    other.fixed = {name: t.clone() if name in buffers else t for name, t in problem.fixed.items()}
    other.effects = effects
    modules = list(problem.model.modules())
    try:
        for module in modules:
            module.training = training
        leaves = other.leaves()
        return without_gradient(other.losses(leaves, other.trimmed(mapped(few, Tensor.clone))).sum(), leaves)
    except (Exception, SystemExit):
        return list(problem.names)
    finally:
        for module in modules:
            module.training = False


def _by_address(problem: Function) -> dict[int, str]:
    """Names of the parameters to be measured by their address, empty for what is fixed."""
    fixed = {t.data_ptr(): "" for t in problem.fixed.values() if t.layout == torch.strided}
    return {p.data_ptr(): name for name, p in problem.parameters.items()} | fixed


# -- samples ---------------------------------------------------------------------------------------


def _changed(copies: Samples, originals: Samples, versions: list[int]) -> tuple[bool, bool]:
    """Whether inputs and whether targets were worked on in place."""
    names = list(copies) if isinstance(copies, dict) else ["inputs", "labels"]
    rows = zip(names, tensors_of(copies), tensors_of(originals), versions, strict=True)
    changed = {name for name, one, other, was in rows if one._version != was or not same_numbers(one, other)}
    return bool(changed - {"labels"}), "labels" in changed


# -- modes that watch or change what torch is asked for --------------------------------------------


class _Formats(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it lasts, notes the half-precision formats of what operations return, as autocast makes them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.formats: set[torch.dtype] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled in here; with torch's default the first call imports all of the compiler, 2 s."""
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(tensor, Tensor) and tensor.dtype in COARSE:
                self.formats.add(tensor.dtype)
        return output


# -- what is said ----------------------------------------------------------------------------------


def module_findings(problem: Function, unused: Collection[str]) -> list[Finding]:
    """What a user should know of them; ``unused``: parameters that no sample reaches.

    Cost: a few forward passes over a few samples, where an embedding has a padding row.
    """
    # What training reaches by a few samples, others may reach in evaluation mode, as with experts.
    return [
        *_training_only([name for name in problem.effects.training_only if name in unused]),
        *_padding_rows(problem),
    ]


def _training_only(names: Sequence[str]) -> list[Finding]:
    if not names:
        return []
    return [
        Finding(
            code="training-only-parameters",
            severity="warning",
            stage=STAGE,
            found=f"{len(names):,} of the tensors are reached by the loss in training mode alone: "
            + ", ".join(names[:LISTED]),
            meaning="in evaluation mode, in which everything is measured, the model leaves them out or uses values "
            "that it made of them before: their noise and curvature count as 0",
            action="clear what the model holds on to (many do at `model.train()`), or freeze them",
        )
    ]


def _padding_rows(problem: Function) -> list[Finding]:
    """Embeddings whose padding row moves the loss of a sample, though torch gives it no gradient."""
    if not problem.effects.paddings:
        return []
    samples = problem.trimmed(problem.take(_with_padding(problem)))
    named = _by_address(problem)
    with problem.measuring(), torch.no_grad():
        scan = ShiftedPadding(named)
        with scan:
            base = problem.losses(problem.parameters, samples)
        moved = []
        for name in scan.names:
            with ShiftedPadding(named, name):
                change = (problem.losses(problem.parameters, samples) - base).abs().max()
            if bool(change > ROUNDINGS * torch.finfo(problem.precision).eps * base.abs().max()):
                moved.append(name)
    if not moved:
        return []
    return [
        Finding(
            code="padding-row-fixed",
            severity="note",
            stage=STAGE,
            found="the padding row of " + ", ".join(moved[:LISTED]) + " moves the loss",
            meaning="torch gives that row no gradient, so it stays where it is in training too; noise and curvature "
            "are those with the row held fixed, and count it as 0",
            action="nothing to do, or mask the padding; with `padding_idx=None` the row is measured and trained",
        )
    ]


def _with_padding(problem: Function) -> Tensor:
    """The first samples, and some in which a number of a padding row occurs."""
    chosen = list(range(min(FEW, problem.n)))
    for tensor in inputs_of(problem.samples) or [targets_of(problem.samples)]:
        for _, padding in problem.effects.paddings if not tensor.is_complex() else ():
            chosen += (tensor == padding).flatten(1).any(1).nonzero()[:FEW, 0].tolist() if tensor.dim() > 1 else []
    return torch.tensor(sorted(set(chosen)), device=problem.device)
