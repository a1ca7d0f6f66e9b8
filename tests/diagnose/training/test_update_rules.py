"""Each rule against torch.optim, or against float64 arithmetic where torch has no such optimizer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from diagnose.settings import METHODS
from diagnose.training.tuning import first_guess
from diagnose.training.update_rules import RULES, Tensors
from reports.words.sentences import method_name
from tests.diagnose.training.tasks import settings

RATE = 0.05
SIZES = {"weight": 12, "bias": 4}
Optimizer = Callable[[list[Tensor]], torch.optim.Optimizer]
PEERS: dict[str, Optimizer] = {
    "sgd": lambda w: torch.optim.SGD(w, lr=RATE),
    "sgd-momentum": lambda w: torch.optim.SGD(w, lr=RATE, momentum=0.9),
    "rmsprop": lambda w: torch.optim.RMSprop(w, lr=RATE),
    "adagrad": lambda w: torch.optim.Adagrad(w, lr=RATE, initial_accumulator_value=1e-10, eps=0),
    "adam": lambda w: torch.optim.Adam(w, lr=RATE),
}


def gradients(count: int, dtype: torch.dtype = torch.float64) -> list[Tensors]:
    generator = torch.Generator().manual_seed(0)
    return [
        {name: torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for name, size in SIZES.items()}
        for _ in range(count)
    ]


def walked(method: str, stream: list[Tensors]) -> Tensors:
    """Where the rule is after these gradients, from 0."""
    w = {name: torch.zeros_like(part) for name, part in stream[0].items()}
    state = RULES[method].init(w)
    for g in stream:
        change, state = RULES[method].update(g, state, RATE)
        w = {name: part + change[name] for name, part in w.items()}
    return w


@pytest.mark.parametrize("method", PEERS)
def test_rule_is_that_of_torch_optim(method: str) -> None:
    stream = gradients(20)
    leaves = {name: torch.zeros(size, dtype=torch.float64) for name, size in SIZES.items()}
    peer = PEERS[method](list(leaves.values()))
    for g in stream:
        for name, leaf in leaves.items():
            leaf.grad = g[name].clone()
        peer.step()
    for name, ours in walked(method, stream).items():
        torch.testing.assert_close(ours, leaves[name], rtol=1e-10, atol=1e-13)


def test_adagrad_norm_against_float64_arithmetic() -> None:
    stream = gradients(20)
    flat = np.array([torch.cat([part.flatten() for part in g.values()]).numpy() for g in stream])
    v = 1e-10 + np.cumsum((flat**2).sum(1))
    expected = -(RATE * flat / np.sqrt(v)[:, None]).sum(0)
    ours = torch.cat([part.flatten() for part in walked("adagrad-norm", stream).values()]).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_sgd_clip_is_sgd_after_torchs_clipping() -> None:
    stream = [*gradients(10), *({name: 0.01 * part for name, part in g.items()} for g in gradients(10))]
    leaves = {name: torch.zeros(size, dtype=torch.float64) for name, size in SIZES.items()}
    sgd = torch.optim.SGD(list(leaves.values()), lr=RATE)
    for g in stream:
        for name, leaf in leaves.items():
            leaf.grad = g[name].clone()
        torch.nn.utils.clip_grad_norm_(list(leaves.values()), 1.0)
        sgd.step()
    for name, ours in walked("sgd-clip", stream).items():
        torch.testing.assert_close(ours, leaves[name], rtol=1e-5, atol=1e-8)  # torch adds 1e-6 to the length


def test_adagrad_momentum_and_sign_sgd_against_float64_arithmetic() -> None:
    stream = gradients(20)
    w, m, v, signs = (np.zeros(16) for _ in range(4))
    v += 1e-10
    for g in stream:
        flat = torch.cat([part.flatten() for part in g.values()]).numpy()
        v += flat**2
        m = 0.9 * m + flat / np.sqrt(v)
        w -= RATE * m
        signs -= RATE * np.sign(flat)
    for method, expected in (("adagrad-momentum", w), ("sign-sgd", signs)):
        ours = torch.cat([part.flatten() for part in walked(method, stream).values()]).numpy()
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-15)


def test_adagrads_first_step_is_the_rate_in_every_coordinate() -> None:
    (g,) = gradients(1)
    step = walked("adagrad", [g])
    for name, part in step.items():
        torch.testing.assert_close(part, -RATE * g[name].sign(), rtol=1e-6, atol=0)


def test_adam_in_float32_keeps_its_first_steps() -> None:
    precise = walked("adam", gradients(5))
    rough = walked("adam", gradients(5, torch.float32))
    for name, part in precise.items():
        torch.testing.assert_close(rough[name].double(), part, rtol=5e-6, atol=1e-9)


@pytest.mark.parametrize("method", RULES)
def test_a_stack_of_runs_is_the_runs(method: str) -> None:
    streams = [gradients(6), [{name: 3 * part for name, part in g.items()} for g in gradients(6)]]
    rates = torch.tensor([[RATE], [2 * RATE]], dtype=torch.float64)
    w = {name: torch.zeros(2, size, dtype=torch.float64) for name, size in SIZES.items()}
    state = RULES[method].init(w)
    for pair in zip(*streams, strict=True):
        g = {name: torch.stack([one[name] for one in pair]) for name in SIZES}
        change, state = RULES[method].update(g, state, rates)
        w = {name: part + change[name] for name, part in w.items()}
    for name, part in walked(method, streams[0]).items():
        torch.testing.assert_close(w[name][0], part)
    faster = walked(method, streams[1])
    for name in SIZES:
        torch.testing.assert_close(w[name][1], 2 * faster[name])


def test_every_method_that_can_be_named_has_a_rule_a_guess_and_a_name() -> None:
    assert tuple(RULES) == METHODS
    for method in METHODS:
        for every_rate in (True, False):
            assert abs(first_guess(method, settings(every_rate=every_rate))) < 20
        assert method_name(method) != method


def test_rules_leave_their_arguments_alone() -> None:
    (g,) = gradients(1)
    for rule in RULES.values():
        kept = {name: part.clone() for name, part in g.items()}
        state = rule.init(kept)
        before = {kind: {name: part.clone() for name, part in parts.items()} for kind, parts in state.items()}
        rule.update(g, state, RATE)
        for name, part in g.items():
            assert torch.equal(part, kept[name])
        for kind, parts in state.items():
            for name, part in parts.items():
                assert torch.equal(part, before[kind][name])
