"""The Hessian of a task as the other libraries hold it; each counts the vectors that it is applied to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.tasks import Task


def curvlinops(task: Task) -> Any:
    """A HessianLinearOperator with ``products``."""
    from curvlinops import HessianLinearOperator

    tokens = isinstance(task.inputs, dict)
    model: Any = _Logits(task.model) if tokens else task.model
    inputs: Any = dict(task.inputs) if tokens else task.inputs
    targets = task.targets[:, 1:].flatten() if tokens else task.targets
    more: dict[str, Any] = {"batch_size_fn": lambda x: targets.shape[0]} if tokens else {}
    data, parameters = [(inputs, targets)], list(task.model.parameters())
    operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, data, check_deterministic=False, **more)
    return _counting(operator, "_matmat", lambda parts: int(parts[0].shape[-1]))


def eigenthings(task: Task) -> Any:
    """A HessianOperator with ``products``."""
    from hessian_eigenthings import HessianOperator

    operator = HessianOperator(task.model, [task.samples], lambda model, batch: task.mean_loss())
    return _counting(operator, "matvec", lambda vector: 1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """For methods that draw from torch's own generator, which is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _counting(operator: Any, name: str, vectors: Callable[[Any], int]) -> Any:
    """The same operator, its method of that name adding to ``products``."""
    inner = getattr(operator, name)

    def counted(block: Any) -> Any:
        operator.products += vectors(block)
        return inner(block)

    operator.products = 0
    setattr(operator, name, counted)
    return operator


class _Logits(nn.Module):
    """A language model as a function from its inputs to the logits of all predicted tokens, (n (T - 1), C)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any) -> Tensor:
        logits: Tensor = self.model(**inputs).logits
        return logits[:, :-1].flatten(0, 1)
