"""Independent brute-force answers: nothing here uses the estimators.

Losses are written out from their formulas, gradients come from ``loss.backward()`` on the model itself, the Hessian
row by row from a second ``torch.autograd.grad``, the smallest dominating diagonal from a semidefinite solver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.problems import Parts

Array = NDArray[np.float64]


def losses(parts: Parts) -> Tensor:
    """One loss for each sample, with its graph to the model's parameters."""
    model, samples, loss = parts
    model.eval()
    if isinstance(samples, dict):
        return torch.stack([_sequence_loss(model, samples, i) for i in range(len(samples["labels"]))])
    inputs, targets = samples
    return torch.stack([_sample_loss(model(inputs[i : i + 1]), targets[i : i + 1], loss) for i in range(len(inputs))])


def _sample_loss(output: Tensor, target: Tensor, loss: Any) -> Tensor:
    if callable(loss):
        each: Tensor = loss(output, target)
        return each[0]
    if loss == "logistic":
        return torch.log(1 + torch.exp(-target.reshape(()) * output.reshape(())))
    if loss == "squared":
        return 0.5 * ((output[0] - target[0]) ** 2).sum()
    return torch.log(torch.exp(output[0]).sum()) - output[0, int(target[0])]


def _sequence_loss(model: nn.Module, samples: dict[str, Tensor], i: int) -> Tensor:
    """Mean over the labelled positions of -log softmax of the next token."""
    inputs = {name: tensor[i : i + 1] for name, tensor in samples.items() if name != "labels"}
    logits, labels = model(**inputs).logits[0], samples["labels"][i]
    terms = [
        torch.log(torch.exp(logits[t - 1]).sum()) - logits[t - 1, int(labels[t])]
        for t in range(1, len(labels))
        if int(labels[t]) != -100
    ]
    return torch.stack(terms).mean()


def loss(parts: Parts) -> float:
    return losses(parts).mean().item()


def per_sample_gradients(parts: Parts) -> Array:
    """(n, d), coordinates in the order of ``named_parameters()``."""
    model = parts[0]
    rows = []
    for i in range(len(losses(parts))):
        model.zero_grad(set_to_none=True)
        losses(parts)[i].backward()  # type: ignore[no-untyped-call]
        rows.append(
            np.concatenate(
                [(torch.zeros_like(p) if p.grad is None else p.grad).numpy().ravel() for p in model.parameters()]
            )
        )
    return np.stack(rows)


def gradient(parts: Parts) -> Array:
    return np.asarray(per_sample_gradients(parts).mean(0))


def sigma(parts: Parts) -> Array:
    """Standard deviation of the per-sample gradients, divisor n."""
    return np.asarray(per_sample_gradients(parts).std(0))


def _gradient_with_graph(parts: Parts) -> tuple[list[nn.Parameter], Tensor]:
    model = parts[0]
    choose_attention = getattr(model, "set_attn_implementation", None)
    if choose_attention is not None:
        choose_attention("eager")
    leaves = list(model.parameters())
    first = torch.autograd.grad(losses(parts).mean(), leaves, create_graph=True, allow_unused=True)
    return leaves, torch.cat(
        [torch.zeros_like(p).reshape(-1) if g is None else g.reshape(-1) for g, p in zip(first, leaves, strict=True)]
    )


def _differentiated(leaves: list[nn.Parameter], scalar: Tensor) -> Array:
    second: Sequence[Tensor | None] = [None] * len(leaves)
    if scalar.requires_grad:
        second = torch.autograd.grad(scalar, leaves, retain_graph=True, allow_unused=True)
    return np.concatenate(
        [np.zeros(p.numel()) if s is None else s.numpy().ravel() for s, p in zip(second, leaves, strict=True)]
    )


def hessian(parts: Parts, rows: Sequence[int] | None = None) -> Array:
    """The Hessian of the mean loss, or some of its rows, (len(rows), d), by double backward."""
    leaves, first = _gradient_with_graph(parts)
    return np.stack([_differentiated(leaves, first[j]) for j in (range(len(first)) if rows is None else rows)])


def hessian_operator(parts: Parts) -> Callable[[Array], Array]:
    """v -> H v by double backward."""
    leaves, first = _gradient_with_graph(parts)
    return lambda v: _differentiated(leaves, first @ torch.from_numpy(np.asarray(v).ravel()))


def smallest_diagonal(matrix: Array) -> float:
    """Lambda(H) = min{1'd : -diag(d) <= H <= diag(d)} by an interior-point solver."""
    cvxpy: Any = import_module("cvxpy")
    scale = float(np.abs(matrix).max())
    if scale == 0:
        return 0.0
    alive = np.abs(matrix).max(1) > 0
    part = matrix[np.ix_(alive, alive)] / scale
    d = cvxpy.Variable(len(part))
    dominated = [cvxpy.diag(d) - part >> 0, cvxpy.diag(d) + part >> 0]
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(d)), dominated)
    problem.solve(solver=cvxpy.CLARABEL)
    assert problem.status == cvxpy.OPTIMAL, problem.status
    return scale * float(problem.value)
