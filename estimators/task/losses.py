"""Losses of a sample: (output of the model, targets) -> one loss for each sample, shape (n,)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimators.errors import InputError
from estimators.numbers.formats import COARSE
from estimators.task.model_kinds import IGNORED, head

LossFunction = Callable[[Any, Tensor], Tensor]
LOOKED_AT = 1 << 20
"""Numbers that are looked at together."""
NAMES = ("cross-entropy", "logistic", "squared")


def select(loss: str | LossFunction, model: nn.Module) -> LossFunction:
    """The loss by its name; language models of transformers get labels shifted by one where they are causal."""
    if callable(loss):
        return loss
    if loss not in NAMES:
        raise InputError(f"unknown loss `{loss}`", "loss", "one of " + ", ".join(NAMES) + ", or a function")
    if loss == "logistic":
        return logistic
    if loss == "squared":
        return squared
    return causal_cross_entropy if head(model) == "causal" else cross_entropy


FEW_CLASSES = 128
"""Up to so many classes the loss of float32 scores is computed in float64, at no cost to speak of: curvature near a
perfect fit is p (1 - p), and float32 rounds 1 - p to a share of 1, not of itself (at a loss of 2e-7 by 3%)."""


def prediction(output: Any) -> Tensor:
    """The tensor of a model's output: itself, or the logits of a transformers output."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise InputError(f"the model returns {type(output).__name__}, not a tensor or an output with logits", "forward")


def cross_entropy(output: Any, targets: Tensor) -> Tensor:
    """-log softmax at the target, averaged over a sample's labels that are not -100.

    Output (n, C) with targets (n,); (n, T, C) with targets (n, T).
    """
    logits = prediction(output)
    if logits.dtype in COARSE:
        logits = logits.float()  # as transformers does: the sum over classes would be rounded to three digits
    elif logits.shape[-1] <= FEW_CLASSES:
        logits = logits.double()
    if logits.dim() == 2 and targets.dim() == 1:
        return F.cross_entropy(logits, targets, reduction="none")
    if logits.dim() > 3 or logits.shape[:-1] != targets.shape:
        raise InputError(f"output {tuple(logits.shape)} does not fit targets {tuple(targets.shape)}", "cross-entropy")
    counted = targets != IGNORED
    each = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none", ignore_index=IGNORED)
    return each.reshape(targets.shape).flatten(1).sum(1) / counted.flatten(1).sum(1)


def causal_cross_entropy(output: Any, targets: Tensor) -> Tensor:
    """Cross-entropy of the next token: the output at position t against the label at t + 1."""
    return cross_entropy(prediction(output)[:, :-1], targets[:, 1:])


def logistic(output: Any, targets: Tensor) -> Tensor:
    """log(1 + exp(-y f)) with y = +-1 and one output for each sample."""
    scores = prediction(output).double()
    return F.softplus(-targets * scores.reshape(targets.shape))


def squared(output: Any, targets: Tensor) -> Tensor:
    """Half the squared error, summed over the outputs of a sample."""
    values = prediction(output)
    if [size for size in values.shape if size != 1] != [size for size in targets.shape if size != 1]:
        raise InputError(f"output {tuple(values.shape)} does not fit targets {tuple(targets.shape)}", "squared loss")
    return 0.5 * (values.reshape(targets.shape) - targets).square().reshape(targets.shape[0], -1).sum(1)


@dataclass(frozen=True)
class Curved:
    """Second derivatives of a named loss in the outputs of each sample: diag(weight) - less less', both (..., outputs),
    ``less`` None where it is 0."""

    weight: Tensor
    less: Tensor | None = None

    def matrix(self) -> Tensor:
        """The curvature, (..., outputs, outputs)."""
        whole = torch.diag_embed(self.weight)
        return whole if self.less is None else whole - self.less[..., :, None] * self.less[..., None, :]

    def root(self, z: Tensor) -> Tensor:
        """R z, R with RR' = the curvature; for cross-entropy diag(sqrt p) - p sqrt(p)'.

        Args:
            z: (..., outputs), or several such in front.
        """
        u = self.weight.sqrt() * z
        return u if self.less is None else u - self.less * u.sum(-1, keepdim=True)

    def times(self, vectors: Tensor) -> Tensor:
        """The curvature times k vectors for each of n samples, (n, k, outputs), in its own format."""
        wide = vectors.to(self.weight.dtype)
        if self.less is None:
            return self.weight[:, None] * wide
        return self.weight[:, None] * wide - self.less[:, None] * (wide * self.less[:, None]).sum(-1, keepdim=True)


def curved(loss: str, values: Tensor) -> Curved:
    """What a named loss does at the outputs (..., outputs), in their format; it is the same for all targets."""
    if loss == "cross-entropy":
        p = values.softmax(-1)
        return Curved(p, p)
    if loss == "squared":
        return Curved(torch.ones_like(values))
    return Curved(values.sigmoid() * (-values).sigmoid())


def slopes(loss: str, values: Tensor, targets: Tensor) -> Tensor:
    """First derivatives of a named loss in the outputs (n, outputs), in their format.

    Targets are (n,), or of as many numbers as there are outputs.
    """
    if loss == "cross-entropy":
        return values.softmax(1).scatter_add_(1, targets[:, None], values.new_full((len(values), 1), -1.0))
    wanted = targets.reshape(values.shape)
    return values - wanted if loss == "squared" else -wanted * (-wanted * values).sigmoid()


def check_output(output: Any, n: int) -> None:
    """What forward returns for n samples, for one of the named losses.

    Raises:
        InputError: no tensor, no real numbers, not one row for each sample.
    """
    values = prediction(output)
    if not values.is_floating_point():
        raise InputError(f"the model returns {values.dtype} numbers", "forward", "return logits in floating point")
    if values.shape[:1] != (n,):
        raise InputError(
            f"the model returns shape {tuple(values.shape)} for {n} samples",
            "forward",
            "return one row for each sample; compare the shape of one sample with what forward takes",
        )


def target_numbers(loss: str | None, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Whole numbers and truth values in the format that a named loss computes with; a function gets what it was given.

    Torch's cross-entropy takes no int32, and -1 is 255 in a format without sign.
    """
    if loss is None or targets.is_floating_point() or targets.is_complex():
        return targets
    return targets.long() if loss == "cross-entropy" else targets.to(dtype)


def check_targets(loss: str, output: Any, targets: Tensor, causal: bool) -> None:
    """Hold the targets of all samples against the output of one.

    Raises:
        InputError: classes beyond the outputs, labels other than +-1, a sample without any label.
    """
    values = prediction(output)
    if loss == "cross-entropy":
        if targets.is_floating_point():
            raise InputError("cross-entropy needs whole numbers as targets", str(targets.dtype), 'use loss="squared"')
        counted = targets != IGNORED
        classes = values.shape[-1]
        if classes == 1 and targets.dim() == 1:
            what = "one output for each sample, cross-entropy takes one for each class"
            raise InputError(what, "forward", 'use the logistic loss for two classes: loss="logistic"')
        bad = counted & ((targets < 0) | (targets >= classes))
        if bool(bad.any()):
            row = int(bad.flatten(1).any(1).nonzero()[0]) if bad.dim() > 1 else int(bad.nonzero()[0])
            worst = int(targets[bad][0])
            what = f"label {worst}, but the model has {classes} outputs"
            hint = "number the classes from 0" if targets.dim() == 1 else "use the tokenizer of the model"
            raise InputError(what, f"sample {row}", hint)
        without = ~labelled(targets, causal)
        if bool(without.any()):
            row = int(without.nonzero()[0])
            raise InputError("a sample has no label to predict", f"sample {row}", "drop it: its loss is not defined")
    elif loss == "logistic":
        if values[:1].numel() != 1:
            raise InputError(f"{values[:1].numel()} outputs for each sample, the logistic loss takes one", "forward")
        if not bool((targets.abs() == 1).all()):
            raise InputError("labels other than -1 and 1", "logistic loss", "map the two classes to -1 and 1")


def labelled(targets: Tensor, causal: bool) -> Tensor:
    """Which samples have a label to predict, shape (n,); ``causal``: the first position of a sequence predicts none."""
    counted = (targets[:, 1:] if causal else targets) != IGNORED
    return counted.unsqueeze(-1).flatten(1).any(1)


def finite(tensor: Tensor) -> bool:
    """Whether all numbers are, looked at in pieces: what is computed on the way is larger than they are."""
    step = max(1, LOOKED_AT // max(1, tensor[:1].numel()))
    return all(bool(torch.isfinite(part).all()) for part in torch.split(tensor, step))


def check_shape(each: Tensor, n: int) -> None:
    """A loss function must return one number for each sample."""
    if not isinstance(each, Tensor) or each.shape != torch.Size([n]):
        found = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
        raise InputError(f"the loss has shape {found}, not ({n},)", "loss", "return one loss for each sample")
