"""Whether samples depend on each other: then no gradient of a sample exists, and f changes with the chunks.

Samples spread over the set, drawn by a seed, are held alone against companies of several sizes and orders: their
losses, and their gradients, which statistics of the batch may enter where no loss shows it: those in a company of
:data:`COMPANY`, losses in one of a whole chunk too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from estimators.errors import InputError, first_line
from estimators.numbers.formats import COARSE
from estimators.numbers.vectors import loss_gradients
from estimators.task import losses
from estimators.task.function import Function, Samples, targets_of
from estimators.task.precision import LAST_PLACES, UNITS, InDouble, at_rounded_weights, double_copy

ALONE, GRADIENTS = 8, 4
"""Samples whose losses are taken alone, and how many of them their gradients too."""
GROUP, COMPANY = 4, 64
"""Samples at once: in groups of those alone, and together with others of the set."""
WEIGHTS = (1.0, -0.6, 1.7, 0.4)
"""Of the samples whose gradients are compared: what another one adds to a sample's does not go into its own."""


def check_losses(problem: Function, few: Samples) -> None:
    """Finite, one for each sample, the same twice.

    Raises:
        InputError: they are not.
    """
    with torch.no_grad():
        each = problem.losses(problem.parameters, few)
        losses.check_shape(each, len(targets_of(few)))
        again = problem.losses(problem.parameters, few)
    if not bool(torch.isfinite(each).all()):
        raise InputError(
            "the loss is not finite at the starting point",
            "sample " + str(int((~torch.isfinite(each)).nonzero()[0])),
            "bring inputs and targets to a common scale, or use float64 (`--dtype float64`)",
        )
    if not close(each, again, problem.precision):
        raise InputError(
            "the loss changes between two evaluations of the same point",
            type(problem.model).__name__,
            "switch off what is random in forward (dropout called with training=True, sampling)",
        )


def refuse_coupled(problem: Function, chunk: int, *, gradients: bool = True) -> None:
    """InputError where the loss of a sample, or its gradient, is another one in company than alone.

    In float64 where the model has room for a copy, and beyond what rounding may do: kernels round a sum in one way for
    one sample and in another for many.

    Cost: 8 samples forward alone and in groups of 4, a chunk of them in company, half of those alone and a company of
    64 backward too.
    """
    if problem.n == 1:
        return
    generator = torch.Generator().manual_seed(problem.n)
    probes = spread(problem.n, ALONE, generator)
    others = torch.randperm(problem.n, generator=generator)
    company = torch.cat([probes, others[~torch.isin(others, probes)]])[: min(problem.n, max(chunk, len(probes)))]
    few = problem.subset(company)  # the probes come first
    copy = double_copy(few)
    if copy is not None:
        with contextlib.suppress(InputError), copy.measuring(), InDouble():
            _check_company(copy, len(probes), chunk, gradients)
            return
    # What float64 shows shows here too, unless it is of float64 alone.
    with few.measuring():
        _check_company(few, len(probes), chunk, gradients)


def _check_company(problem: Function, probes: int, chunk: int, gradients: bool) -> None:
    """The first samples of a problem alone, in groups, and among all of them in a random order."""
    first, generator = torch.arange(probes), torch.Generator().manual_seed(probes)
    alone = _alone(problem, first)
    finite = torch.isfinite(alone)  # what is not is named with its sample when gradients are measured
    floor = _rounding(problem, first, alone)
    for order in torch.split(torch.randperm(probes, generator=generator), GROUP):
        _compare(problem, _losses(problem, order), alone[order], finite[order], floor)
    order = torch.randperm(problem.n, generator=generator)
    few = min(problem.n, COMPANY)
    measured: dict[int, tuple[Tensor, Tensor]] = {}
    for size in sorted({few, min(problem.n, max(chunk, GROUP))}):
        company = order[torch.isin(order, torch.arange(size))]
        found = _losses(problem, company)
        measured[size] = company, found
        _compare(problem, found[_places(first[:size], company)], alone[:size], finite[:size], floor)
    if gradients and bool(finite.any()):
        company, found = measured[few]
        company = company[torch.isfinite(found).cpu()]
        picked = first[finite.cpu()][:GRADIENTS]
        _compare_gradients(problem, company, _places(picked, company))


def _rounding(problem: Function, index: Tensor, alone: Tensor) -> float:
    """What rounding may move a loss by: what a move of the weights in their last places does, and the last places of 1,
    the size of what a softmax rounds, or of the loss where its errors are squared."""
    moved = (_alone(at_rounded_weights(problem), index) - alone).double().abs()
    eps = LAST_PLACES * torch.finfo(problem.precision).eps
    known = moved[moved.isfinite()]
    size = float(alone[alone.isfinite()].abs().max()) if bool(alone.isfinite().any()) else 0.0
    largest = float(known.max()) if known.numel() else 0.0
    return UNITS * largest + eps * (size if problem.loss_name == "squared" else max(size, 1.0))


def spread(n: int, most: int, generator: torch.Generator) -> Tensor:
    """Some of n samples, one at random from each of as many stretches of the same length; all where they are few."""
    count = min(n, most)
    edges = torch.linspace(0, n, count + 1, dtype=torch.float64).round()
    return (edges[:-1] + torch.rand(count, generator=generator, dtype=torch.float64) * edges.diff()).long()


def _places(of: Tensor, among: Tensor) -> Tensor:
    return (among == of[:, None]).int().argmax(1)


def close(a: Tensor, b: Tensor, precision: torch.dtype, floor: float = 0.0) -> bool:
    """Whether two vectors are the same up to a ten-thousandth of the largest number, or to ``floor``."""
    scale = float(a.abs().max())
    return bool((a - b).abs().max() <= (5e-2 if precision in COARSE else 1e-4) * max(scale, 1e-12) + floor)


# -- alone and in company --------------------------------------------------------------------------


def _samples(problem: Function, index: Tensor) -> Samples:
    return problem.trimmed(problem.take(index.to(problem.device)))


def _losses(problem: Function, index: Tensor) -> Tensor:
    with torch.no_grad():
        return problem.losses(problem.parameters, _samples(problem, index))


def _alone(problem: Function, probes: Tensor) -> Tensor:
    """Losses one by one. A forward that takes several samples, but none alone, has statistics of the batch in it."""
    try:
        return torch.cat([_losses(problem, probe[None]) for probe in probes])
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise _refusal(problem, "loss", f" with one alone: {first_line(error)}") from error


def _compare(problem: Function, found: Tensor, alone: Tensor, finite: Tensor, floor: float) -> None:
    if bool(finite.any()) and not close(alone[finite], found[finite], problem.precision, floor):
        raise _refusal(problem, "loss")


def _compare_gradients(problem: Function, company: Tensor, places: Tensor) -> None:
    """The gradient of a weighted sum of losses in company against those of the same samples alone."""
    by = torch.tensor(WEIGHTS[: len(places)], dtype=torch.float64).to(problem.device)

    def together(there: Function) -> Sequence[Tensor]:
        leaves = there.leaves()
        each = there.losses(leaves, _samples(there, company))[places.to(there.device)]
        return loss_gradients((by.to(each) * each).sum(), list(leaves.values()))

    found, leaves = together(problem), problem.leaves()
    wanted, sizes = [torch.zeros_like(part) for part in found], [torch.zeros_like(part) for part in found]
    for weight, sample in zip(by, company[places], strict=True):
        # The weight goes into the loss: a backward that is not linear is no coupling.
        loss = problem.losses(leaves, _samples(problem, sample[None])).sum()
        own = loss_gradients(weight.to(loss) * loss, list(leaves.values()))
        for part, total, size in zip(own, wanted, sizes, strict=True):
            total += part
            size += part.abs()
    shifted = [moved - part for moved, part in zip(together(at_rounded_weights(problem)), found, strict=True)]
    tensors = (*wanted, *found, *shifted)
    finite = all(bool(torch.isfinite(part).all()) for part in tensors)  # 0 times infinity is no coupling
    if finite and not _agree(found, wanted, sizes, shifted, problem.precision):
        raise _refusal(problem, "gradient")


def _agree(
    found: Sequence[Tensor],
    wanted: Sequence[Tensor],
    sizes: Sequence[Tensor],
    shifted: Sequence[Tensor],
    precision: torch.dtype,
) -> bool:
    """By the norm of each tensor: where rounding moves an input of ReLU over 0, a few numbers change for good."""
    rough = 0.1 if precision in COARSE else 1e-2 if precision == torch.float32 else 1e-6
    norms = [float(size.double().norm()) for size in sizes]
    rounding = [UNITS * float(part.double().norm()) for part in shifted]
    whole = max(norms, default=0.0)
    off = [float((ours - theirs).double().norm()) for ours, theirs in zip(found, wanted, strict=True)]
    return all(
        gap <= rough * (norm + whole / 64) + shift for gap, norm, shift in zip(off, norms, rounding, strict=True)
    )


def _refusal(problem: Function, what: str, reason: str = "") -> InputError:
    return InputError(
        f"the {what} of a sample depends on the other samples of its batch",
        type(problem.model).__name__ + reason,
        "no per-sample gradient exists; replace layers that use statistics of the batch",
    )
