"""One step of an optimizer, whatever it is: a pure rule, or an optimizer class of the user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from diagnose.errors import InputError
from diagnose.training.update_rules import RULES, State, Tensors, UpdateRule

Step = Callable[[Tensors, Tensors, float], Tensors]
"""(w, gradient, learning rate) -> the next w; holds the optimizer's state."""
Factory = Callable[..., torch.optim.Optimizer]
"""(list of parameters, lr=rate) -> an optimizer: a class of ``torch.optim`` or a function that fills in the rest."""


def stepper(method: str, own: Mapping[str, Factory], w: Tensors) -> Step:
    """The method from its start at w."""
    return _of_torch(own[method], method, w) if method in own else RuleStep(RULES[method], RULES[method].init(w))


def state_bytes(method: str, own: Mapping[str, Factory], w: Tensors) -> int:
    """Memory of the optimizer's state after a step, parameters and gradients apart."""
    if method not in own:
        return sum(part.nbytes for kind in RULES[method].init(w).values() for part in kind.values())
    leaves, optimizer = _opened(own[method], method, w, 1.0)
    _stepped(optimizer, leaves, {name: torch.ones_like(part) for name, part in w.items()})
    held = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum(value.nbytes for value in held)


@dataclass
class RuleStep:
    """Steps of a pure rule, with the state that the last one left."""

    rule: UpdateRule
    state: State

    def __call__(self, w: Tensors, g: Tensors, rate: float) -> Tensors:
        change, self.state = self.rule.update(g, self.state, rate)
        return {name: part + change[name] for name, part in w.items()}


def state_of(step: Step) -> State:
    """The state of a pure rule; none for an optimizer of the user's."""
    return step.state if isinstance(step, RuleStep) else {}


def _of_torch(factory: Factory, method: str, w: Tensors) -> Step:
    opened: tuple[Tensors, torch.optim.Optimizer] | None = None
    first = 0.0
    own: list[float] = []

    def step(w: Tensors, g: Tensors, rate: float) -> Tensors:
        nonlocal opened, first, own
        if opened is None:
            opened = _opened(factory, method, w, rate)
            first, own = rate, [group["lr"] for group in opened[1].param_groups]
        leaves, optimizer = opened
        for group, given in zip(optimizer.param_groups, own, strict=True):
            group["lr"] = given * (rate / first)
        with torch.no_grad():
            for name, leaf in leaves.items():
                leaf.copy_(w[name])  # a box may have moved it
        _stepped(optimizer, leaves, g)
        return {name: leaf.detach().clone() for name, leaf in leaves.items()}

    return step


def _opened(factory: Factory, method: str, w: Tensors, rate: float) -> tuple[Tensors, torch.optim.Optimizer]:
    leaves = {name: part.detach().clone().requires_grad_() for name, part in w.items()}
    try:
        optimizer: Any = factory(list(leaves.values()), lr=rate)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"cannot be made: {error}", f"optimizer {method}", "give a callable that takes (parameters, lr=...)"
        ) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(
            f"gives a {type(optimizer).__name__}", f"optimizer {method}", "give a class of torch.optim.Optimizer"
        )
    needs = [p for p in inspect.signature(optimizer.step).parameters.values() if p.default is p.empty]
    if any(p.kind is p.POSITIONAL_OR_KEYWORD for p in needs):
        raise InputError(
            "its step asks for a closure", f"optimizer {method}", "give an optimizer whose step() takes one gradient"
        )
    return leaves, optimizer


def _stepped(optimizer: torch.optim.Optimizer, leaves: Tensors, g: Tensors) -> None:
    for name, leaf in leaves.items():
        leaf.grad = g[name].detach().clone()
    optimizer.step()
    optimizer.zero_grad()
