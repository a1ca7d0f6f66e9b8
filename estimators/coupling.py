"""Whether samples depend on each other: then no gradient of a sample exists, and f changes with the chunks.

Samples spread over the set, drawn by a seed, are held alone against companies of several sizes and orders: their
losses, and their gradients, which statistics of the batch may enter where no loss shows it. Couplings that take more
samples at once than :data:`COMPANY` are not looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from estimators import losses
from estimators.errors import InputError, first_line

if TYPE_CHECKING:
    from estimators.problem import Problem, Samples

ALONE, GRADIENTS = 8, 4
"""Samples whose losses are taken alone, and how many of them their gradients too."""
GROUP, COMPANY = 4, 64
"""Samples at once: in groups of those alone, and together with others of the set."""
WEIGHTS = (1.0, -0.6, 1.7, 0.4)
"""Of the samples whose gradients are compared: what another one adds to a sample's does not go into its own."""


def check_losses(problem: Problem, few: Samples) -> None:
    """Finite, one for each sample, the same twice.

    Raises:
        InputError: they are not.
    """
    with torch.no_grad():
        each = problem.losses(problem.parameters, few)
        losses.check_shape(each, len(few["labels"] if isinstance(few, dict) else few[1]))
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


def refuse_coupled(problem: Problem, chunk: int, *, gradients: bool = True) -> None:
    """InputError where the loss of a sample, or its gradient, is another one in company than alone.

    Cost: 8 samples forward alone and in groups of 4, up to 64 in company (at most ``chunk``, but 4 always), half of
    those alone and the company backward too.
    """
    if problem.n == 1:
        return
    generator = torch.Generator().manual_seed(problem.n)
    probes = spread(problem.n, ALONE, generator)
    size = min(problem.n, COMPANY, max(chunk, GROUP))
    alone = _alone(problem, probes)
    finite = torch.isfinite(alone)  # what is not is named with its sample when gradients are measured
    for order in torch.split(torch.randperm(len(probes), generator=generator), min(size, GROUP)):
        _compare(problem, _losses(problem, probes[order]), alone[order], finite[order])
    others = torch.randperm(problem.n, generator=generator)
    company = torch.cat([probes, others[~torch.isin(others, probes)]])[:size]
    company = company[torch.randperm(size, generator=generator)]
    found = _losses(problem, company)
    places = _places(probes[:size], company)
    _compare(problem, found[places], alone[:size], finite[:size])
    if gradients and bool(finite[:size].any()):
        company = company[torch.isfinite(found).cpu()]
        picked = probes[:size][finite[:size].cpu()][:GRADIENTS]
        _compare_gradients(problem, company, _places(picked, company))


def spread(n: int, most: int, generator: torch.Generator) -> Tensor:
    """Some of n samples, one at random from each of as many stretches of the same length; all where they are few."""
    count = min(n, most)
    edges = torch.linspace(0, n, count + 1, dtype=torch.float64).round()
    return (edges[:-1] + torch.rand(count, generator=generator, dtype=torch.float64) * edges.diff()).long()


def _places(of: Tensor, among: Tensor) -> Tensor:
    return (among == of[:, None]).int().argmax(1)


def close(a: Tensor, b: Tensor, precision: torch.dtype) -> bool:
    scale = float(a.abs().max())
    return bool((a - b).abs().max() <= (5e-2 if precision in losses.COARSE else 1e-4) * max(scale, 1e-12))


# -- alone and in company --------------------------------------------------------------------------


def _samples(problem: Problem, index: Tensor) -> Samples:
    return problem.trimmed(problem.take(index.to(problem.device)))


def _losses(problem: Problem, index: Tensor) -> Tensor:
    with torch.no_grad():
        return problem.losses(problem.parameters, _samples(problem, index))


def _alone(problem: Problem, probes: Tensor) -> Tensor:
    """Losses one by one. A forward that takes several samples, but none alone, has statistics of the batch in it."""
    try:
        return torch.cat([_losses(problem, probe[None]) for probe in probes])
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise _refusal(problem, "loss", f" with one alone: {first_line(error)}") from error


def _compare(problem: Problem, found: Tensor, alone: Tensor, finite: Tensor) -> None:
    if bool(finite.any()) and not close(alone[finite], found[finite], problem.precision):
        raise _refusal(problem, "loss")


def _compare_gradients(problem: Problem, company: Tensor, places: Tensor) -> None:
    """The gradient of a weighted sum of losses in company against those of the same samples alone."""
    by = torch.tensor(WEIGHTS[: len(places)], dtype=torch.float64).to(problem.device)
    leaves = problem.leaves()
    together = problem.losses(leaves, _samples(problem, company))[places.to(problem.device)]
    found = _gradients((by.to(together) * together).sum(), list(leaves.values()))
    wanted, sizes = [torch.zeros_like(part) for part in found], [torch.zeros_like(part) for part in found]
    for weight, sample in zip(by, company[places], strict=True):
        # The weight goes into the loss: a backward that is not linear is no coupling.
        loss = problem.losses(leaves, _samples(problem, sample[None])).sum()
        for part, total, size in zip(
            _gradients(weight.to(loss) * loss, list(leaves.values())), wanted, sizes, strict=True
        ):
            total += part
            size += part.abs()
    finite = all(bool(torch.isfinite(part).all()) for part in (*wanted, *found))  # 0 times infinity is no coupling
    if finite and not _agree(found, wanted, sizes, problem.precision):
        raise _refusal(problem, "gradient")


def _gradients(loss: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor]:
    if not loss.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


def _agree(found: Sequence[Tensor], wanted: Sequence[Tensor], sizes: Sequence[Tensor], precision: torch.dtype) -> bool:
    """By the norm of each tensor: where rounding moves an input of ReLU over 0, a few numbers change for good."""
    rough = 0.1 if precision in losses.COARSE else 1e-2 if precision == torch.float32 else 1e-6
    norms = [float(size.double().norm()) for size in sizes]
    whole = max(norms, default=0.0)
    off = [float((ours - theirs).double().norm()) for ours, theirs in zip(found, wanted, strict=True)]
    return all(gap <= rough * (norm + whole / 64) for gap, norm in zip(off, norms, strict=True))


def _refusal(problem: Problem, what: str, reason: str = "") -> InputError:
    return InputError(
        f"the {what} of a sample depends on the other samples of its batch",
        type(problem.model).__name__ + reason,
        "no per-sample gradient exists; replace layers that use statistics of the batch",
    )
