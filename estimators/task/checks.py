"""What is checked once when a problem is opened: that the measurements will mean what they say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from estimators.errors import InputError, first_line
from estimators.numbers.formats import COARSE, weights_precision
from estimators.results import Finding
from estimators.task import coupling, losses, model_kinds
from estimators.task.causality import refuse_later_tokens, refuse_one_sided
from estimators.task.function import Function, Samples, inputs_of, targets_of
from estimators.task.graphs import dense_parts
from estimators.task.lookups import NoRow, RefusedNumbers
from estimators.task.model_loss import refuse_another_loss
from estimators.task.module_checks import module_findings, without_gradient

NO_PADDING = "set `pad_token_id` in its config to the number of the token that fills short rows"
COMPARE = "compare the shape and type of one sample with what forward takes"
PROBE = 4
STAGE = "opening"
OUTER_NUMBERS = 1 << 22
"""Inputs and outputs of the samples that go through the model at once hold at most this many numbers: much larger
tensors are fetched from the system anew at every step."""
SAVED_NUMBERS = 1 << 24
"""What they keep for backward holds at most this many, about as much as the caches."""
FEW_COLUMNS = 32
"""Up to this many numbers of a sample each may be looked up in a table of its own; more are a sequence."""


def examine(problem: Function) -> tuple[int, tuple[Finding, ...]]:
    """Chunk size and findings of a new problem.

    Cost: some passes over a few samples, and where samples hold whole numbers a forward pass over all.

    Raises:
        InputError: see :class:`estimators.Problem`.
    """
    refuse_coupled_modules(problem.model)
    few = problem.take(slice(0, PROBE))
    with problem.measuring():
        chunk = _check_outputs(problem, few)
        if problem.n > PROBE and _looks_up(problem):
            # Under a limit the chunk that fits is not known yet.
            _check_every_sample(problem, chunk if problem.memory_bytes is None else PROBE)
        coupling.check_losses(problem, few)
        # Under a limit the chunk that fits is not known yet.
        coupling.refuse_coupled(problem, chunk if problem.memory_bytes is None else PROBE)
        refuse_one_sided(problem)
        refuse_later_tokens(problem)
        refuse_another_loss(problem)
        unused = _check_gradient(problem, few)
    findings = (
        *_module_findings(problem.model),
        *module_findings(problem, unused),
        *_parameter_findings(problem, unused),
    )
    return min(problem.n, chunk), findings


def examine_others(problem: Function, every: bool = True) -> None:
    """Samples beside those that the problem was made with: forward takes all of them, the targets fit its output, and
    none depends on the others.

    Not ``every``: of many samples those go through forward that hold the smallest and the largest numbers, by column
    where there are few; a table that has rows for these has rows for what lies between.

    Cost: a forward pass over them, and some over a few; not ``every``: over a few alone.

    Raises:
        InputError: samples that forward can't take, such as tokens out of the vocabulary; targets that do not fit;
            losses that other samples change.
    """
    with problem.measuring():
        output = _check_every_sample(problem, problem.chunk) if every else _check_extremes(problem)
        _check_targets(problem, output)
        coupling.refuse_coupled(problem, problem.chunk, gradients=False)


def refuse_unmade(model: nn.Module) -> None:
    """InputError for parameters and buffers without numbers, and for parameters that are no plain real ones."""
    parameters = dict(model.named_parameters())
    for name, tensor in [*parameters.items(), *model.named_buffers()]:
        if is_lazy(tensor) or tensor.is_meta:
            kind = "parameter" if name in parameters else "buffer"
            raise InputError(f"a {kind} without numbers", name, "run forward once, or load the weights, before this")
    for name, parameter in parameters.items():
        if parameter.is_complex():
            raise InputError("complex parameters are not measured", name, "give the model in real numbers")
        if parameter.layout != torch.strided:
            raise InputError("sparse parameters are not measured", name, "give them as dense tensors: `.to_dense()`")
        if parameter.is_floating_point() and parameter.itemsize == 1:
            raise InputError("parameters of 8 bits are not measured", name, "give the model in float32: `.float()`")


def refuse_coupled_modules(model: nn.Module) -> None:
    """InputError for a layer that lets the samples of a batch depend on each other."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise InputError(
                "batch norm without running statistics couples the samples, so no per-sample gradient exists",
                name or type(model).__name__,
                "build the layer with track_running_stats=True",
            )
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.scale_grad_by_freq:
            raise InputError(
                "an embedding that scales its gradient by frequency couples the samples",
                name or type(model).__name__,
                "build the layer with scale_grad_by_freq=False",
            )


def _check_outputs(problem: Function, few: Samples) -> int:
    """Targets fit the output; returns how many samples go through the model at once.

    That follows sizes alone, never the clock. Measured on two CPU threads in float32, milliseconds for a product
    over all samples, all at once against pieces of this size:

        GPT-2, T = 384, 8 of 8.0M saved numbers     599    408
        GPT-2, T = 128, 16 of 2.2M                  241    180
        GPT-2, vocabulary 50,257, 8 of 5.1M         750    342
        ResNet-20, 64 of 0.4M                       164    172
        CNN on 8 x 8, 512 of 9,800                   27     27
    """
    output = _output(problem, 0, PROBE)
    tensors = few.values() if isinstance(few, dict) else few[:1]
    numbers = sum(tensor[:1].numel() for tensor in tensors)
    if problem.loss_name is not None:
        losses.check_output(output, min(PROBE, problem.n))
        _check_targets(problem, output)
        numbers += losses.prediction(output)[:1].numel()
    return max(1, min(OUTER_NUMBERS // max(numbers, 1), SAVED_NUMBERS // max(_saved(problem, few), 1)))


def _check_targets(problem: Function, output: Any) -> None:
    """The targets of all samples fit what forward returns for some; a function as loss takes what it likes."""
    if problem.loss_name is not None:
        causal = model_kinds.head(problem.model) == "causal"
        losses.check_targets(problem.loss_name, output, targets_of(problem.samples), causal)


def _saved(problem: Function, few: Samples) -> int:
    """Numbers that forward keeps for backward, for one sample; parameters, which all samples share, left out."""
    leaves = problem.leaves()
    seen = {part.data_ptr() for t in (*leaves.values(), *problem.fixed.values()) for part in dense_parts(t)}
    count = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal count
        for part in dense_parts(tensor):
            if part.data_ptr() not in seen:
                seen.add(part.data_ptr())
                count += part.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = problem.losses(leaves, problem.trimmed(few)).sum()
    del total  # the graph held what was counted: its memory could not come back under the same address
    return count // len(targets_of(few))


def _looks_up(problem: Function) -> bool:
    """Whether samples hold whole numbers that forward may look up in a table: then it may take some and not others."""
    tables = any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in problem.model.modules())
    return tables or not all(tensor.is_floating_point() for tensor in inputs_of(problem.samples))


def _check_every_sample(problem: Function, size: int) -> Any:
    """Forward takes all samples, so many at once; returns its output for the last of them."""
    for start in range(0, problem.n, size):
        output = _output(problem, start, min(start + size, problem.n))
    problem.passes.add(1 / 3)
    return output


def _check_extremes(problem: Function) -> Any:
    """Forward takes the samples with the smallest and the largest numbers; returns its output for some of them."""
    for start in sorted({max(0, min(row, problem.n - PROBE)) for row in _extremes(problem)}):
        output = _output(problem, start, min(start + PROBE, problem.n))
        problem.passes.add(min(PROBE, problem.n) / problem.n / 3)
    return output


def _extremes(problem: Function) -> set[int]:
    """The first sample, and those with the smallest and the largest number of each input or of each of its columns."""
    rows = {0}
    for tensor in inputs_of(problem.samples):
        if tensor.dtype == torch.bool or not tensor.numel():
            continue
        columns = tensor.reshape(problem.n, -1)
        if columns.shape[1] > FEW_COLUMNS:
            rows |= {int(columns.amin(1).argmin()), int(columns.amax(1).argmax())}
        else:
            rows |= {*columns.argmin(0).tolist(), *columns.argmax(0).tolist()}
    return rows


def _output(problem: Function, start: int, stop: int) -> Any:
    """What forward returns for some samples; whatever it raises says that model and samples do not fit."""
    try:
        return _returned(problem, start, stop)
    except InputError as error:
        raise _named(problem, start, min(stop, problem.n), error) from error


def _returned(problem: Function, start: int, stop: int) -> Any:
    samples = problem.trimmed(problem.take(slice(start, stop)))
    try:
        with torch.no_grad(), RefusedNumbers(type(problem.model).__name__):
            return problem.output(problem.parameters, samples)
    except (InputError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            "the model cannot take these samples",
            f"{type(problem.model).__name__}: {first_line(error)}",
            NO_PADDING if model_kinds.lacks_padding(error) else COMPARE,
        ) from error


def _named(problem: Function, start: int, stop: int, error: InputError) -> InputError:
    """The error with the first sample that raises one and its whole numbers; as it is where it is no single sample's
    fault: where each of the first ones raises it, or none alone."""

    def refused(first: int, last: int) -> InputError | None:
        try:
            _returned(problem, first, last)
        except InputError as own:
            return own
        return None

    low, high = start, stop  # the samples before low are taken, those before high not all
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if refused(low, middle) else (middle, high)
    own = refused(low, high)
    if own is None:
        return error
    if low == 0 and refused(stop - 1, stop):
        return error  # no one sample's fault
    if low > 0 and refused(low - 1, low):
        return error  # forward takes no sample alone
    if isinstance(own, NoRow):
        return InputError(own.what, f"sample {low}", own.hint)
    return InputError(own.what, f"sample {low}{_whole_numbers(problem, low)}, {own.where}", own.hint)


def _whole_numbers(problem: Function, sample: int) -> str:
    """The range of a sample's whole numbers in words."""
    inputs = inputs_of(problem.take(slice(sample, sample + 1)))
    ends = [end for t in inputs if not t.is_floating_point() and t.numel() for end in torch.aminmax(t.long())]
    return f" with numbers from {int(min(ends))} to {int(max(ends))}" if ends else ""


def _check_gradient(problem: Function, few: Samples) -> list[str]:
    """The gradient is finite and the same twice; returns the parameters that it does not reach."""
    first, unused = _gradient(problem, few)
    second, _ = _gradient(problem, few)
    if not bool(torch.isfinite(first).all()):
        raise InputError("the gradient is not finite at the starting point", type(problem.model).__name__)
    if not coupling.close(first, second, problem.precision):
        raise InputError("the gradient changes between two evaluations of the same point", type(problem.model).__name__)
    return _unreached(problem, unused) if problem.n > PROBE else unused


def _unreached(problem: Function, names: list[str]) -> list[str]:
    """Those of the parameters that no sample reaches; which are reached may depend on the sample, as with experts."""
    chunks = problem.chunks()
    while names and (chunk := next(chunks, None)) is not None:
        leaves = {name: p.detach() for name, p in problem.parameters.items()}
        asked = {name: leaves[name].requires_grad_() for name in names}
        names = without_gradient(problem.losses(leaves, chunk).sum(), asked)
    return names


def _gradient(problem: Function, few: Samples) -> tuple[Tensor, list[str]]:
    leaves = problem.leaves()
    loss = problem.losses(leaves, few).mean()
    if not loss.requires_grad:
        raise InputError("the loss does not depend on the parameters", type(problem.model).__name__)
    parts = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    unused = [name for name, part in zip(leaves, parts, strict=True) if part is None]
    return torch.cat([part.reshape(-1) for part in parts if part is not None]), unused


def _module_findings(model: nn.Module) -> list[Finding]:
    found = []
    layers = [m.p for m in model.modules() if isinstance(m, _DropoutNd)]
    rates = [rate for rate in layers or model_kinds.dropout_rates(model) if rate > 0]
    if rates:
        where = counted(len(rates), "dropout layer") if layers else "dropout in the model's config"
        found.append(
            Finding(
                code="dropout-on",
                severity="note",
                stage=STAGE,
                found=f"{where} with rates up to {max(rates):g}",
                meaning="measured and trained with dropout off; dropout in your training adds noise that is not "
                "counted here",
                action="set the dropout rate to 0 in training too, or read the noise as a lower estimate",
            )
        )
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    if norms:
        found.append(
            Finding(
                code="batchnorm-eval",
                severity="note",
                stage=STAGE,
                found=counted(len(norms), "batch norm layer"),
                meaning="measured and trained in evaluation mode with the stored statistics: in training mode samples "
                "are coupled and no per-sample gradient exists",
                action="start from weights whose running statistics fit the data, or use group norm or layer norm",
            )
        )
    return found


def _parameter_findings(problem: Function, unused: list[str]) -> list[Finding]:
    found = []
    total = sum(1 for _ in problem.model.named_parameters(remove_duplicate=False))
    unique = sum(1 for _ in problem.model.named_parameters())
    if total > unique:
        found.append(
            Finding(
                code="tied-parameters",
                severity="note",
                stage=STAGE,
                found=counted(total - unique, "tied tensor"),
                meaning="a tied tensor is one set of coordinates: its gradient is the sum over its uses, and it counts "
                "once",
                action="nothing to do; compare with numbers of other tools that count it twice with care",
            )
        )
    frozen = sum(1 for p in problem.model.parameters() if not p.requires_grad)
    if frozen:
        found.append(
            Finding(
                code="frozen-parameters",
                severity="note",
                stage=STAGE,
                found=counted(frozen, "frozen tensor"),
                meaning="they stay at their values and are not coordinates of the measurement",
                action="call requires_grad_() on those that you train",
            )
        )
    if unused:
        found.append(
            Finding(
                code="unused-parameters",
                severity="warning",
                stage=STAGE,
                found=f"{counted(len(unused), 'tensor')} that the loss does not reach: " + ", ".join(unused[:3]),
                meaning="their noise and curvature are 0, which makes the density look smaller than it is",
                action="remove them, or freeze them with requires_grad_(False)",
            )
        )
    if problem.precision in COARSE:
        short = str(problem.precision).removeprefix("torch.")
        who = "weights" if weights_precision(problem.model) == problem.precision else "forward computes"
        found.append(
            Finding(
                code="low-precision",
                severity="warning",
                stage=STAGE,
                found=f"{who} in {short}",
                meaning="rounding of about 1 in 1,000 enters every gradient; small noise and curvature drown in it",
                action="convert the model to float32 with model.float(), and leave autocast out of forward",
            )
        )
    return found


def counted(number: int, noun: str) -> str:
    """A number with its noun in the right form."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
