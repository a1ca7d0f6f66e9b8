"""Every loss of torch.nn as a function (output, targets) -> one loss for each sample, by the name of its class.

AdaptiveLogSoftmaxWithLoss has parameters of its own: it is among the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from estimators.task.losses import LossFunction
from tests.module_kinds import N, moved
from tests.problems import Parts

WIDTH, CLASSES = 4, 3


@dataclass(frozen=True)
class Loss:
    """A loss by its class in torch.nn (``covers``) and the kind of it that is tried (``kind``).

    ``outputs``: how many numbers the network gives for each sample. ``curvature`` and ``known`` as those of a layer.
    """

    covers: str
    loss: LossFunction
    outputs: int
    targets: Callable[[], Tensor]
    kind: str = ""
    curvature: str = ""
    known: Mapping[str, str] = field(default_factory=dict)

    def parts(self) -> Parts:
        torch.manual_seed(31)
        model = moved(nn.Sequential(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, self.outputs)))
        targets = self.targets()
        targets = targets.double() if targets.is_floating_point() else targets
        return model.double(), (torch.randn(N, WIDTH).double(), targets), self.loss

    def __str__(self) -> str:
        return f"{self.covers}-{self.kind}" if self.kind else self.covers


# -- targets ---------------------------------------------------------------------------------------


def classes() -> Tensor:
    return torch.arange(N) % CLASSES


def signs() -> Tensor:
    return (2 * (torch.arange(N) % 2) - 1).double()


def numbers(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(N, *shape)


def shares(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.rand(N, *shape)


def counts() -> Tensor:
    return torch.randint(0, 4, (N, WIDTH)).double()


def several() -> Tensor:
    """Up to two classes of four for each sample, -1 behind the last."""
    return torch.tensor([[1, 3, -1, -1], [0, -1, -1, -1], [2, 0, -1, -1]]).repeat(2, 1)


def weights(size: int) -> Tensor:
    return torch.arange(1, size + 1).double() / size


# -- functions of each sample ----------------------------------------------------------------------


def each(loss: nn.Module, prepared: Callable[[Tensor], Tensor] = lambda output: output) -> LossFunction:
    """The mean over a sample's numbers of a loss without reduction."""

    def function(output: Any, targets: Tensor) -> Tensor:
        values: Tensor = loss(prepared(output), targets)
        return values.reshape(len(output), -1).mean(1)

    return function


def by_part(loss: Callable[..., Tensor], parts: int) -> LossFunction:
    """Of a loss that takes several vectors and perhaps a target: the output in so many pieces."""

    def function(output: Any, targets: Tensor) -> Tensor:
        pieces = output.chunk(parts, 1)
        values = loss(*pieces) if parts == 3 else loss(*pieces, targets)
        return values.reshape(len(output), -1).mean(1)

    return function


def gaussian(output: Any, targets: Tensor) -> Tensor:
    """Mean and variance are both outputs."""
    mean, spread = output.chunk(2, 1)
    loss = nn.GaussianNLLLoss(full=True, reduction="none")
    values: Tensor = loss(mean, targets, nn.functional.softplus(spread))
    return values.mean(1)


def connectionist(output: Any, targets: Tensor) -> Tensor:
    """Six steps over four symbols against two."""
    steps = output.reshape(len(output), 6, 4).log_softmax(2).transpose(0, 1)
    full, two = torch.full((len(output),), 6), torch.full((len(output),), 2)
    values: Tensor = nn.CTCLoss(reduction="none")(steps, targets, full, two)
    return values


def linear(options: Any) -> LossFunction:
    """Its own weight is fixed here: a loss has no parameters of the model."""
    loss = nn.LinearCrossEntropyLoss(WIDTH, CLASSES, reduction="none", options=options).double().requires_grad_(False)
    with torch.no_grad():
        loss.linear.weight.copy_(torch.arange(WIDTH * CLASSES).reshape(CLASSES, WIDTH).sin())

    def function(output: Any, targets: Tensor) -> Tensor:
        values: Tensor = loss(output, targets)
        return values

    return function


# -- the table -------------------------------------------------------------------------------------

BENT: dict[str, Any] = {"curvature": "second derivative"}
"""No second derivative in torch."""


def _plain(name: str, **settings: Any) -> nn.Module:
    loss: nn.Module = getattr(nn, name)(reduction="none", **settings)
    return loss


def _regressions() -> Iterator[Loss]:
    for name in ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss"):
        yield Loss(name, each(_plain(name)), WIDTH, numbers(WIDTH))
    yield Loss("SmoothL1Loss", each(_plain("SmoothL1Loss", beta=0.3)), WIDTH, numbers(WIDTH), kind="narrow")
    yield Loss("HuberLoss", each(_plain("HuberLoss", delta=0.3)), WIDTH, numbers(WIDTH), kind="narrow")
    yield Loss("GaussianNLLLoss", gaussian, 2 * WIDTH, numbers(WIDTH))
    yield Loss("PoissonNLLLoss", each(_plain("PoissonNLLLoss", full=True)), WIDTH, counts)
    rate = each(_plain("PoissonNLLLoss", log_input=False), nn.Softplus())
    yield Loss("PoissonNLLLoss", rate, WIDTH, counts, kind="of-rates")


def _classifications() -> Iterator[Loss]:
    logs = nn.LogSoftmax(1)
    yield Loss("CrossEntropyLoss", each(_plain("CrossEntropyLoss")), CLASSES, classes)
    smooth = each(_plain("CrossEntropyLoss", label_smoothing=0.1, weight=weights(CLASSES)))
    yield Loss("CrossEntropyLoss", smooth, CLASSES, classes, kind="smoothed-weighted")
    yield Loss("CrossEntropyLoss", each(_plain("CrossEntropyLoss")), CLASSES, shares(CLASSES), kind="of-shares")
    yield Loss("NLLLoss", each(_plain("NLLLoss", weight=weights(CLASSES)), logs), CLASSES, classes)
    grid = each(_plain("NLLLoss2d"), lambda output: logs(output.reshape(-1, CLASSES, 2, 2)))
    yield Loss("NLLLoss2d", grid, 4 * CLASSES, lambda: torch.randint(0, CLASSES, (N, 2, 2)))
    yield Loss("KLDivLoss", each(_plain("KLDivLoss"), logs), CLASSES, lambda: torch.rand(N, CLASSES).softmax(1))
    target = each(_plain("KLDivLoss", log_target=True), logs)
    yield Loss("KLDivLoss", target, CLASSES, lambda: torch.randn(N, CLASSES).log_softmax(1), kind="log-target")
    yield Loss("BCELoss", each(_plain("BCELoss"), nn.Sigmoid()), WIDTH, shares(WIDTH))
    positive = each(_plain("BCEWithLogitsLoss", pos_weight=weights(WIDTH)))
    yield Loss("BCEWithLogitsLoss", positive, WIDTH, shares(WIDTH))
    yield Loss("SoftMarginLoss", each(_plain("SoftMarginLoss")), WIDTH, lambda: numbers(WIDTH)().sign())
    yield Loss("MultiMarginLoss", each(_plain("MultiMarginLoss")), CLASSES, classes, **BENT)
    yield Loss("MultiMarginLoss", each(_plain("MultiMarginLoss", p=2)), CLASSES, classes, kind="squared", **BENT)
    yield Loss("MultiLabelMarginLoss", each(_plain("MultiLabelMarginLoss")), 4, several, **BENT)
    yield Loss("MultiLabelSoftMarginLoss", each(_plain("MultiLabelSoftMarginLoss")), WIDTH, shares(WIDTH))
    yield Loss("CTCLoss", connectionist, 24, lambda: torch.randint(1, 4, (N, 2)), **BENT)
    yield Loss("LinearCrossEntropyLoss", linear(None), WIDTH, classes)
    chunked = linear(nn.LinearCrossEntropyOptions())
    yield Loss("LinearCrossEntropyLoss", chunked, WIDTH, classes, kind="chunked", **BENT)


def _distances() -> Iterator[Loss]:
    yield Loss("HingeEmbeddingLoss", each(_plain("HingeEmbeddingLoss")), 1, lambda: signs()[:, None])
    ranking = by_part(_plain("MarginRankingLoss", margin=0.5), 2)
    yield Loss("MarginRankingLoss", ranking, 2, lambda: signs()[:, None])
    yield Loss("CosineEmbeddingLoss", by_part(_plain("CosineEmbeddingLoss", margin=-0.5), 2), 6, signs)
    yield Loss("TripletMarginLoss", by_part(_plain("TripletMarginLoss", margin=2.0), 3), 9, numbers())
    swapped = by_part(_plain("TripletMarginLoss", margin=2.0, swap=True), 3)
    yield Loss("TripletMarginLoss", swapped, 9, numbers(), kind="swapped")
    distance = by_part(
        _plain("TripletMarginWithDistanceLoss", distance_function=nn.PairwiseDistance(3.0), margin=2.0), 3
    )
    yield Loss("TripletMarginWithDistanceLoss", distance, 9, numbers())


LOSSES = (*_regressions(), *_classifications(), *_distances())
