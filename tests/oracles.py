"""Independent brute-force answers: nothing here uses the estimators.

Losses are written out from their formulas, gradients come from ``loss.backward()`` on the model itself, the Hessian
row by row from a second ``torch.autograd.grad``, the smallest dominating diagonal from a semidefinite solver.

What autograd differentiates is not trusted alone: before a Hessian is handed out, the gradient is held against
differences of the loss, and the product with a random vector, to which every entry contributes, against differences
of the gradient. Where they part the oracle fails, not the estimator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests import differences
from tests.problems import Parts

Array = differences.Array
TRUSTED = 1e-6
"""How far derivatives of autograd may be from differences, relative to the largest number. Differences err by 1e-9 or
less on these cases; a rule that is wrong does so by its own size."""


def losses(parts: Parts) -> Tensor:
    """One loss for each sample, with its graph to the model's parameters."""
    return torch.stack(_each_loss(parts))


def _each_loss(parts: Parts) -> list[Tensor]:
    """The same apart: the graph of one sample's loss holds no other."""
    model, samples, loss = parts
    model.eval()
    if isinstance(samples, dict):
        return [_sequence_loss(model, samples, i) for i in range(len(samples["labels"]))]
    inputs, targets = samples
    return [_sample_loss(model(inputs[i : i + 1]), targets[i : i + 1], loss) for i in range(len(inputs))]


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
    model, rows = parts[0], []
    for one in _each_loss(parts):
        model.zero_grad(set_to_none=True)
        one.backward()  # type: ignore[no-untyped-call]
        leaves = list(model.parameters())
        rows.append(flat([p.grad for p in leaves], leaves).numpy().copy())
    return np.stack(rows)


def gradient(parts: Parts) -> Array:
    return np.asarray(per_sample_gradients(parts).mean(0))


def sigma(parts: Parts) -> Array:
    """Standard deviation of the per-sample gradients, divisor n."""
    return np.asarray(per_sample_gradients(parts).std(0))


def _checked_gradient(parts: Parts) -> tuple[list[nn.Parameter], Tensor]:
    """The parameters and the gradient of the mean loss with its graph, once both derivatives are known to be right."""
    model = parts[0]
    choose_attention = getattr(model, "set_attn_implementation", None)
    if choose_attention is not None:
        choose_attention("eager")
    leaves = list(model.parameters())
    first = flat(torch.autograd.grad(losses(parts).mean(), leaves, create_graph=True, allow_unused=True), leaves)
    if leaves[0].dtype == torch.float64:
        _confirm(parts, first)
    else:
        _checked_gradient(_in_float64(parts))  # the same operations
    return leaves, first


def _in_float64(parts: Parts) -> Parts:
    model, samples, loss = parts
    copied = copy.deepcopy(model).double()
    if isinstance(samples, dict):
        return copied, {name: _wide(tensor) for name, tensor in samples.items()}, loss
    return copied, (_wide(samples[0]), _wide(samples[1])), loss


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _confirm(parts: Parts, first: Tensor) -> None:
    """AssertionError unless differences agree with the gradient, and with the product along a random vector."""
    model = parts[0]
    leaves, v = list(model.parameters()), random_direction(model)

    def losses_at(t: float) -> Array:
        with moved(leaves, t * v), torch.no_grad():
            return losses(parts).numpy()

    def gradient_at(t: float) -> Array:
        with moved(leaves, t * v):
            return flat(torch.autograd.grad(losses(parts).mean(), leaves, allow_unused=True), leaves).numpy()

    confirm(gradient_at(0.0) @ v, lambda t: losses_at(t).mean(), "gradient")
    confirm(_differentiated(leaves, first @ torch.from_numpy(v)), gradient_at, "double backward")


def confirm(ours: Array, value: Callable[[float], Array], what: str) -> None:
    """AssertionError where a derivative of autograd along a random vector is not the slope of what it derives."""
    apart = differences.disagreement(ours, value)
    assert apart <= TRUSTED, f"the {what} of autograd is off by {apart:.1e} along a random vector"


def random_direction(model: nn.Module, seed: int = 0) -> Array:
    """A unit vector over the trainable parameters, 0 at the padding rows of embeddings: torch holds those fixed."""
    rng, parts = np.random.default_rng(seed), []
    padding = {
        id(module.weight): module.padding_idx
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None
    }
    for leaf in (leaf for leaf in model.parameters() if leaf.requires_grad):
        part = rng.standard_normal(leaf.shape)
        if id(leaf) in padding:
            part[padding[id(leaf)]] = 0
        parts.append(part.ravel())
    v = np.concatenate(parts)
    return v / np.linalg.norm(v)


@contextmanager
def moved(leaves: Sequence[Tensor], step: Array) -> Iterator[None]:
    """The parameters elsewhere while it lasts, and bit for bit where they were at its end.

    Through ``data``, so that a graph that was built before stays valid after it.
    """
    home = [leaf.data.clone() for leaf in leaves]
    parts = torch.split(torch.from_numpy(step), [leaf.numel() for leaf in leaves])
    for leaf, part in zip(leaves, parts, strict=True):
        leaf.data += part.reshape(leaf.shape)
    try:
        yield
    finally:
        for leaf, start in zip(leaves, home, strict=True):
            leaf.data.copy_(start)


def flat(parts: Sequence[Tensor | None], leaves: Sequence[Tensor]) -> Tensor:
    """One vector; 0 where a part is absent."""
    pairs = zip(parts, leaves, strict=True)
    return torch.cat([torch.zeros_like(p).reshape(-1) if g is None else g.reshape(-1) for g, p in pairs])


def _differentiated(leaves: list[nn.Parameter], scalar: Tensor) -> Array:
    second: Sequence[Tensor | None] = [None] * len(leaves)
    if scalar.requires_grad:
        second = torch.autograd.grad(scalar, leaves, retain_graph=True, allow_unused=True)
    return flat(second, leaves).numpy()


def hessian(parts: Parts, rows: Sequence[int] | None = None) -> Array:
    """The Hessian of the mean loss, or some of its rows, (len(rows), d), by double backward that differences
    confirm."""
    leaves, first = _checked_gradient(parts)
    return np.stack([_differentiated(leaves, first[j]) for j in (range(len(first)) if rows is None else rows)])


def hessian_operator(parts: Parts) -> Callable[[Array], Array]:
    """v -> H v by double backward that differences confirm."""
    leaves, first = _checked_gradient(parts)
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
