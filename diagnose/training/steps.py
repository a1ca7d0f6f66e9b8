"""One step of an optimizer, whatever it is: a pure rule, or an optimizer class of the user's."""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.random import MT19937, RandomState, mtrand

from diagnose.errors import InputError, out_of_memory
from diagnose.inputs.models.reading import first_line
from diagnose.training.runs import Contender, RaceSettings
from diagnose.training.update_rules import RULES, State, Tensors, UpdateRule

Step = Callable[[Tensors, Tensors, float], Tensors]
"""(w, gradient, learning rate) -> the next w; holds the optimizer's state."""
Factory = Callable[..., torch.optim.Optimizer]
"""(list of parameters, lr=rate) -> an optimizer: a class of ``torch.optim`` or a function that fills in the rest."""


def stepper(run: Contender, settings: RaceSettings, w: Tensors) -> Step:
    """The run's method from its start at w.

    Raises:
        InputError: here or in a step, an optimizer of the user's cannot be used, or raises.
    """
    method = run.method
    if method not in settings.own:
        return RuleStep(RULES[method], RULES[method].init(_flat(w)), {name: part.shape for name, part in w.items()})
    return _OwnStep(settings.own[method], run, RandomNumbers(_seed(settings.seed, run), w), w)


def state_bytes(method: str, own: Mapping[str, Factory], w: Tensors) -> int:
    """Memory of the optimizer's state after a step, parameters and gradients apart.

    Raises:
        InputError: an optimizer of the user's cannot be used, or raises.
    """
    if method not in own:
        return sum(part.nbytes for kind in RULES[method].init(_flat(w)).values() for part in kind.values())
    with RandomNumbers(0, w).drawn(), _told(method):
        leaves, optimizer = _opened(own[method], method, w, 1.0)
        _stepped(optimizer, leaves, {name: torch.ones_like(part) for name, part in w.items()})
    held = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum(value.nbytes for value in held)


@dataclass
class RuleStep:
    """Steps of a pure rule, with the state that the last one left."""

    rule: UpdateRule
    state: State
    shapes: Mapping[str, torch.Size]

    def __call__(self, w: Tensors, g: Tensors, rate: float) -> Tensors:
        change, self.state = self.rule.update(_flat(g), self.state, rate)
        return {name: part + change[name].view(self.shapes[name]) for name, part in w.items()}


def state_of(step: Step) -> State:
    """The state of a pure rule, in the shapes of the parameters; none for an optimizer of the user's."""
    if not isinstance(step, RuleStep):
        return {}
    return {
        kind: {name: part.view(step.shapes.get(name, ())) for name, part in parts.items()}
        for kind, parts in step.state.items()
    }


def _flat(w: Tensors) -> Tensors:
    return {name: part.reshape(-1) for name, part in w.items()}


class RandomNumbers:
    """The random numbers of one run: a stream of its own in the global generators of torch (on the CPU and where w
    is), numpy and Python."""

    def __init__(self, seed: int, w: Tensors) -> None:
        self.others = sorted({part.device for part in w.values() if part.device.type != "cpu"}, key=str)
        self.states = [
            torch.Generator(device).manual_seed(seed).get_state() for device in (torch.device("cpu"), *self.others)
        ]
        self.bits = MT19937()  # the user's numpy may draw from another kind
        self.numpy, self.python = RandomState(seed).get_state(), random.Random(seed).getstate()

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Inside, the stream goes on where it was left; outside, the generators are as they were."""
        kind = self.others[0].type if self.others else "cuda"
        module = torch.get_device_module(kind)
        with torch.random.fork_rng(devices=self.others, device_type=kind), _put_back():
            torch.set_rng_state(self.states[0])
            for device, state in zip(self.others, self.states[1:], strict=True):
                module.set_rng_state(state, device)
            mtrand.set_bit_generator(self.bits)
            mtrand.set_state(self.numpy)
            random.setstate(self.python)
            yield
            self.numpy, self.python = mtrand.get_state(), random.getstate()
            self.states = [torch.get_rng_state(), *(module.get_rng_state(device) for device in self.others)]


@contextmanager
def _put_back() -> Iterator[None]:
    """Afterwards the global generators of numpy and Python are as they were."""
    bits, numpy, python = mtrand.get_bit_generator(), mtrand.get_state(legacy=False), random.getstate()
    try:
        yield
    finally:
        mtrand.set_bit_generator(bits)
        mtrand.set_state(numpy)
        random.setstate(python)


def _seed(seed: int, run: Contender) -> int:
    """What the random numbers of a run follow; torch's generator on the CPU and numpy's read 32 bits of it."""
    text = f"optimizer {seed} {run.seed} {run.learning_rate!r} {run.method}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


class _OwnStep:
    """Steps of an optimizer of the user's, which keeps its state and may change its own learning rates."""

    def __init__(self, factory: Factory, run: Contender, random: RandomNumbers, w: Tensors) -> None:
        self.method, self.random, self.rate = run.method, random, run.learning_rate
        with random.drawn(), _told(run.method):
            self.leaves, self.optimizer = _opened(factory, run.method, w, run.learning_rate)

    def __call__(self, w: Tensors, g: Tensors, rate: float) -> Tensors:
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                leaf.copy_(w[name])  # a box may have moved it
        with self.random.drawn(), _told(self.method):
            if rate != self.rate:  # the schedule goes on from what the optimizer made of its rates
                for group in self.optimizer.param_groups:
                    group["lr"] = group["lr"] * (rate / self.rate)
                self.rate = rate
            _stepped(self.optimizer, self.leaves, g)
        return {name: leaf.detach().clone() for name, leaf in self.leaves.items()}


@contextmanager
def _told(method: str) -> Iterator[None]:
    """Whatever the user's code raises says that the optimizer cannot be used; no memory left is told by others."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, RuntimeError) and out_of_memory(error):
            raise
        raise InputError(
            f"raised {type(error).__name__}: {first_line(error)}",
            f"optimizer {method}",
            "give a callable that takes (parameters, lr=...) and makes a torch.optim.Optimizer whose step() works "
            "after backward()",
        ) from error


def _opened(factory: Factory, method: str, w: Tensors, rate: float) -> tuple[Tensors, torch.optim.Optimizer]:
    leaves = {name: part.detach().clone().requires_grad_() for name, part in w.items()}
    optimizer: Any = factory(list(leaves.values()), lr=rate)
    where = f"optimizer {method}"
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"gives a {type(optimizer).__name__}", where, "give a class of torch.optim.Optimizer")
    needs = [p for p in inspect.signature(optimizer.step).parameters.values() if p.default is p.empty]
    if any(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in needs):
        raise InputError("its step asks for a closure", where, "give an optimizer whose step() takes one gradient")
    if not all("lr" in group for group in optimizer.param_groups):
        raise InputError(
            "a parameter group without `lr`", where, "keep the learning rate in param_groups: it is what is tuned"
        )
    return leaves, optimizer


def _stepped(optimizer: torch.optim.Optimizer, leaves: Tensors, g: Tensors) -> None:
    for name, leaf in leaves.items():
        leaf.grad = g[name].detach().clone()
    optimizer.step()
    optimizer.zero_grad()
