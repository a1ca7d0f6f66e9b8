"""Update rules as pairs of pure functions on a dict of tensors, of one run or of many at once.

``init(w)`` gives the state before the first step; ``update(g, state, rate)`` the change of w and the next state.
The last dimension of every tensor counts coordinates, those before it runs: (d_k,) for the k-th parameter of one run,
(runs, d) for all coordinates of each run under one name. Runs have rates (runs, 1).
A state maps the name of a statistic to one tensor for each parameter, or to one number for each run under ``ALL``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
State = dict[str, Tensors]
Rate = float | Tensor
ALL = ""
ADAGRAD_START = 1e-10
"""v before the first step: the paper's epsilon, inside the root."""
BETA1, BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-8
MOMENTUM = 0.9
LONGEST = 1.0
"""sgd-clip shortens a gradient to this Euclidean length, the usual choice for language models."""
ALPHA, RMSPROP_EPSILON = 0.99, 1e-8


class UpdateRule(NamedTuple):
    """One optimizer."""

    init: Callable[[Tensors], State]
    update: Callable[[Tensors, State, Rate], tuple[Tensors, State]]


def _no_state(w: Tensors) -> State:
    return {}


def _sgd(g: Tensors, state: State, rate: Rate) -> tuple[Tensors, State]:
    """w <- w - rate g."""
    return {name: -rate * part for name, part in g.items()}, state


def _momentum_init(w: Tensors) -> State:
    return {"m": _zeros(w)}


def _sgd_momentum(g: Tensors, state: State, rate: Rate) -> tuple[Tensors, State]:
    """m <- 0.9 m + g; w <- w - rate m (Polyak 1964, as in torch.optim.SGD)."""
    m = {name: MOMENTUM * state["m"][name] + part for name, part in g.items()}
    return {name: -rate * part for name, part in m.items()}, {"m": m}


def _sgd_clip(g: Tensors, state: State, rate: Rate) -> tuple[Tensors, State]:
    """w <- w - rate g min(1, 1/||g||_2) (Pascanu, Mikolov & Bengio 2013)."""
    scale = rate * (LONGEST / _square(g).sqrt().clamp_min(LONGEST))
    return {name: -scale * part for name, part in g.items()}, state


def _adagrad_init(w: Tensors) -> State:
    return {"v": {name: torch.full_like(part, ADAGRAD_START) for name, part in w.items()}}


def _adagrad(g: Tensors, state: State, rate: Rate) -> tuple[Tensors, State]:
    """v <- v + g^2; w <- w - rate g / sqrt(v), by coordinate (arXiv 2406.15244, algorithm 1)."""
    v = {name: state["v"][name] + part.square() for name, part in g.items()}
    return {name: -rate * part / v[name].sqrt() for name, part in g.items()}, {"v": v}


def _adagrad_momentum_init(w: Tensors) -> State:
    return {**_adagrad_init(w), **_momentum_init(w)}


def _adagrad_momentum(g: Tensors, state: State, rate: Rate) -> tuple[Tensors, State]:
    """v <- v + g^2; m <- 0.9 m + g / sqrt(v); w <- w - rate m: AdaGrad's step with Polyak's momentum."""
    v = {name: state["v"][name] + part.square() for name, part in g.items()}
    m = {name: MOMENTUM * state["m"][name] + part / v[name].sqrt() for name, part in g.items()}
    return {name: -rate * part for name, part in m.items()}, {"v": v, "m": m}


def _adagrad_norm_init(w: Tensors) -> State:
    return {"v": {ALL: _for_each_run(w, ADAGRAD_START)}}


def _adagrad_norm(g: Tensors, state: State, rate: Rate) -> tuple[Tensors, State]:
    """v <- v + ||g||_2^2; w <- w - rate g / sqrt(v), one v for all coordinates (Ward, Wu & Bottou 2019)."""
    v = state["v"][ALL] + _square(g)
    scale = rate / v.sqrt()
    return {name: -scale * part for name, part in g.items()}, {"v": {ALL: v}}


def _rmsprop_init(w: Tensors) -> State:
    return {"v": _zeros(w)}


def _rmsprop(g: Tensors, state: State, rate: Rate) -> tuple[Tensors, State]:
    """v <- 0.99 v + 0.01 g^2; w <- w - rate g / (sqrt(v) + 1e-8), torch's defaults (Tieleman & Hinton 2012)."""
    v = {name: ALPHA * state["v"][name] + (1 - ALPHA) * part.square() for name, part in g.items()}
    return {name: -rate * part / (v[name].sqrt() + RMSPROP_EPSILON) for name, part in g.items()}, {"v": v}


def _adam_init(w: Tensors) -> State:
    return {"m": _zeros(w), "v": _zeros(w), "t": {ALL: _for_each_run(w, 0.0)}}


def _adam(g: Tensors, state: State, rate: Rate) -> tuple[Tensors, State]:
    """Adam with torch's defaults, both moments corrected for their start at 0 (Kingma & Ba 2015)."""
    t = state["t"][ALL] + 1
    m = {name: BETA1 * state["m"][name] + (1 - BETA1) * part for name, part in g.items()}
    v = {name: BETA2 * state["v"][name] + (1 - BETA2) * part.square() for name, part in g.items()}
    # 1 - b^t by expm1: in float32 1 - 0.999^1 alone would lose four digits.
    scale = rate / torch.expm1(t * math.log(BETA1))  # negative: the step goes down
    root = (-torch.expm1(t * math.log(BETA2))).sqrt()
    change = {name: scale * m[name] / (v[name].sqrt() / root + ADAM_EPSILON) for name in g}
    return change, {"m": m, "v": v, "t": {ALL: t}}


def _sign_sgd(g: Tensors, state: State, rate: Rate) -> tuple[Tensors, State]:
    """w <- w - rate sign(g) (Bernstein et al. 2018)."""
    return {name: -rate * part.sign() for name, part in g.items()}, state


def _square(g: Tensors) -> Tensor:
    """||g||_2^2 over all parameters, (..., 1)."""
    return torch.stack([part.square().sum(-1, keepdim=True) for part in g.values()]).sum(0)


def _for_each_run(w: Tensors, number: float) -> Tensor:
    """(..., 1)"""
    first = next(iter(w.values()))
    return torch.full_like(first[..., :1], number)


def _zeros(w: Tensors) -> Tensors:
    return {name: torch.zeros_like(part) for name, part in w.items()}


RULES: dict[str, UpdateRule] = {
    "sgd": UpdateRule(_no_state, _sgd),
    "sgd-momentum": UpdateRule(_momentum_init, _sgd_momentum),
    "sgd-clip": UpdateRule(_no_state, _sgd_clip),
    "adagrad": UpdateRule(_adagrad_init, _adagrad),
    "adagrad-norm": UpdateRule(_adagrad_norm_init, _adagrad_norm),
    "adagrad-momentum": UpdateRule(_adagrad_momentum_init, _adagrad_momentum),
    "rmsprop": UpdateRule(_rmsprop_init, _rmsprop),
    "adam": UpdateRule(_adam_init, _adam),
    "sign-sgd": UpdateRule(_no_state, _sign_sgd),
}
