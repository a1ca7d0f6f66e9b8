"""Families of checks that every estimator must pass on every problem.

Each check takes an :class:`Estimator` and a case and fails by AssertionError. tests/estimators/test_checks.py runs
all of them and, for each family, a deliberately wrong estimator that must fail it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from estimators.task import losses
from estimators.task.function import Samples
from estimators.task.problem import Problem
from tests.problems import Case, Parts

Values = dict[str, Any]
BESIDE = ("cost", "warnings", "why")


@dataclass(frozen=True)
class Estimator:
    """A measurement and how its fields scale: f -> c f multiplies field ``key`` by c^degrees[key].

    Fields that ``degrees`` leaves out are not numbers of the task (counts, flags, global_l1) and not compared.
    """

    name: str
    measure: Callable[[Problem], Any]
    degrees: Mapping[str, int]
    tolerance: float = 1e-8

    def __str__(self) -> str:
        return self.name


def values(result: Any, keys: Mapping[str, int]) -> Values:
    """The compared fields of a result as floats and float64 arrays."""
    return {f.name: _plain(getattr(result, f.name)) for f in fields(result) if f.name in keys}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, Tensor):
        return value.detach().cpu().double().numpy()
    if isinstance(value, (list, tuple)):
        return np.array(value, dtype=np.float64)
    return value


def assert_same(found: Values, wanted: Values, degrees: Mapping[str, int], c: float, tolerance: float) -> None:
    """found = c^degree * wanted, relative to the largest number of each field; null only where wanted is."""
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        _assert_close(found[key], value, c ** degrees[key], tolerance, key)


def _assert_close(found: Any, wanted: Any, factor: float, tolerance: float, where: str) -> None:
    if wanted is None or found is None:
        assert found is wanted, f"{where}: {found} against {wanted}"
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for name, part in wanted.items():
            _assert_close(found[name], part, factor, tolerance, f"{where}/{name}")
    else:
        a, b = np.asarray(found, dtype=np.float64), factor * np.asarray(wanted, dtype=np.float64)
        assert a.shape == b.shape, f"{where}: shape {a.shape} against {b.shape}"
        off = np.abs(a - b).max(initial=0.0)
        size = np.abs(b).max(initial=0.0)
        assert off <= tolerance * size + 1e-13, f"{where}: off by {off:.3g}, size {size:.3g}"


# -- the families ----------------------------------------------------------------------------------


def scales(estimator: Estimator, case: Case) -> None:
    """f -> c f multiplies sigma, H and L by c and leaves densities as they are."""
    c = 3.0
    model, samples, loss = case.parts()
    base = losses.select(loss, model)
    scaled = Problem(model, samples, lambda output, targets: c * base(output, targets))
    found = values(estimator.measure(scaled), estimator.degrees)
    wanted = values(estimator.measure(case.problem()), estimator.degrees)
    assert_same(found, wanted, estimator.degrees, c, estimator.tolerance)


def ignores_order(estimator: Estimator, case: Case) -> None:
    """Permuting the samples changes nothing."""
    model, samples, loss = case.parts()
    wanted = values(estimator.measure(case.problem()), estimator.degrees)
    found = values(estimator.measure(Problem(model, _reversed(samples), loss)), estimator.degrees)
    assert_same(found, wanted, estimator.degrees, 1.0, estimator.tolerance)


def repeats(estimator: Estimator, case: Case) -> None:
    """The same seed gives the same bits, whatever the global random state."""
    one, other = case.problem(), case.problem()
    torch.manual_seed(1)
    first = values(estimator.measure(one), estimator.degrees)
    torch.manual_seed(2)
    second = values(estimator.measure(other), estimator.degrees)
    assert_same(second, first, estimator.degrees, 1.0, 0.0)
    _assert_bits(second, first)


def ignores_chunks(estimator: Estimator, case: Case) -> None:
    """How many samples go through the model at once changes rounding alone."""
    wanted = values(estimator.measure(case.problem()), estimator.degrees)
    problem = case.problem()
    problem.chunk = 2
    found = values(estimator.measure(problem), estimator.degrees)
    assert_same(found, wanted, estimator.degrees, 1.0, estimator.tolerance)


def leaves_model(estimator: Estimator, case: Case) -> None:
    """The user's model, its samples and the random states are as they were."""
    parts = case.parts()
    with untouched(parts):
        estimator.measure(Problem(*parts))


FAMILIES = (scales, ignores_order, repeats, ignores_chunks, leaves_model)


def _reversed(samples: Samples) -> Samples:
    if isinstance(samples, dict):
        return {name: tensor.flip(0) for name, tensor in samples.items()}
    return samples[0].flip(0), samples[1].flip(0)


def _assert_bits(found: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        for name in wanted:
            _assert_bits(found[name], wanted[name])
    elif isinstance(wanted, np.ndarray):
        assert found.tobytes() == wanted.tobytes()
    else:
        assert found == wanted


@contextmanager
def untouched(parts: Parts) -> Iterator[None]:
    """Everything that a caller can see of model, samples and random states is the same, bit for bit, at the end.

    The model comes in as people hand it over: partly in training mode, gradients filled, a hook registered.
    """
    model, samples, _ = parts
    model.train()
    next(iter(model.children()), model).eval()
    for i, parameter in enumerate(model.parameters()):
        if i % 2:
            parameter.grad = torch.full_like(parameter, 0.5)
    handle = model.register_forward_hook(lambda *_: None)
    before = snapshot(model, samples)
    try:
        yield
        after = snapshot(model, samples)
    finally:
        handle.remove()
    assert after.keys() == before.keys()
    for key, value in before.items():
        assert after[key] == value, f"{key} changed"


def snapshot(model: nn.Module, samples: Samples) -> dict[str, Any]:
    """The visible state of a model, its samples and the random number generators, comparable by ==."""
    state: dict[str, Any] = {}
    for name, module in model.named_modules():
        state[f"mode {name}"] = module.training
        state[f"hooks {name}"] = [list(getattr(module, kind)) for kind in HOOKS]
        state[f"attributes {name}"] = sorted(vars(module))
    for name, parameter in model.named_parameters():
        state[f"parameter {name}"] = (id(parameter), _bytes(parameter), parameter.requires_grad, parameter._version)
        state[f"grad {name}"] = None if parameter.grad is None else (id(parameter.grad), _bytes(parameter.grad))
    for name, buffer in model.named_buffers():
        state[f"buffer {name}"] = (id(buffer), _bytes(buffer))
    config = getattr(model, "config", None)
    state["attention"] = getattr(config, "_attn_implementation", None)
    state["samples"] = [_bytes(t) for t in (samples.values() if isinstance(samples, dict) else samples)]
    state["torch random"] = _bytes(torch.random.get_rng_state())
    state["numpy random"] = repr(np.random.get_state())  # noqa: NPY002  the user's global state is what is compared
    state["python random"] = random.getstate()
    state["grad mode"] = torch.is_grad_enabled()
    state["default dtype"] = torch.get_default_dtype()
    return state


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
