"""Loss and accuracy on samples that no run was trained on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from estimators.task.function import Parameters
from estimators.task.losses import prediction
from estimators.task.model_kinds import IGNORED, head
from estimators.task.problem import Problem


class Score(NamedTuple):
    """Mean loss of the samples, and the mean over them of the share of labels that are predicted right.

    ``accuracy`` is None for a loss that has no classes; both are None where nothing was scored.
    """

    loss: float | None
    accuracy: float | None


def score(problem: Problem, w: Parameters) -> Score:
    """The samples of the problem at w. Cost: a forward pass over them."""
    there = problem.at(w)
    loss = right = 0.0
    with there.measuring(), torch.no_grad():
        for samples in there.chunks():
            output = there.output(there.parameters, samples)
            targets = samples["labels"] if isinstance(samples, dict) else samples[1]
            loss += there.loss_of(output, targets).double().sum().item()
            if there.loss_name in ("cross-entropy", "logistic"):
                right += _right(there, output, targets).double().sum().item()
    there.passes.add(1 / 3)
    classes = there.loss_name in ("cross-entropy", "logistic")
    return Score(loss / there.n, right / there.n if classes else None)


def _right(problem: Problem, output: object, targets: Tensor) -> Tensor:
    """For each sample the share of its labels that have the highest output, or the sign of the only one."""
    values = prediction(output)
    if problem.loss_name == "logistic":
        return (values.reshape(targets.shape) * targets > 0).reshape(targets.shape[0], -1).double().mean(1)
    if head(problem.model) == "causal":
        values, targets = values[:, :-1], targets[:, 1:]
    counted = (targets != IGNORED).reshape(targets.shape[0], -1)
    hits = (values.argmax(-1) == targets).reshape(targets.shape[0], -1) & counted
    return hits.sum(1) / counted.sum(1)
