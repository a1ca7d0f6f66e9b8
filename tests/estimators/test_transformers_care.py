"""Models of transformers stay as their owner handed them over, and what cannot be measured is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimators import InputError, Problem, generalized_smoothness, hessian_diagonal, noise, smoothness, spectrum
from estimators.smoothness_vector import at_a_point
from estimators.smoothness_vector.bracket import FEWEST_PRODUCTS
from tests import checks
from tests.markers import marked
from tests.transformers_cases import (
    BY_NAME,
    CASES,
    VOCABULARY,
    Case,
    answers,
    built,
    gpt2,
    lora,
    mixtral,
    text,
    unpadded,
)
from tests.transformers_oracles import Oracle


def _configs(model: nn.Module) -> list[Any]:
    """Configurations of every module that has one, with what they keep out of their files."""
    return [
        repr(sorted(vars(module.config).items(), key=str)) for module in model.modules() if hasattr(module, "config")
    ]


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _measure_everything(problem: Problem) -> None:
    problem.loss()
    problem.hessian_vector_product(problem.gradient())
    noise(problem)
    bracket = smoothness(problem, gap=10.0, max_products=FEWEST_PRODUCTS)
    hessian_diagonal(problem, probes=4, smoothness=bracket)
    spectrum(problem, steps=4)
    elsewhere = {name: 1.01 * parameter for name, parameter in problem.parameters.items()}
    generalized_smoothness(problem, [problem.parameters, elsewhere], gap=10.0, max_products=FEWEST_PRODUCTS)


@pytest.mark.parametrize("case", marked("sweep", CASES, [BY_NAME["lora"]]), ids=str)
def test_the_model_is_left_alone(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_a_point, "MAX_STEPS", 6)
    model, samples = case.model(), case.samples()
    configs, state, keys = _configs(model), _state(model), list(samples)
    with checks.untouched((model, samples, "cross-entropy")):
        _measure_everything(Problem(model, samples, forms_hessian=False))
    assert _configs(model) == configs
    assert list(samples) == keys
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_the_model_is_left_alone_where_its_hessian_is_formed() -> None:
    model, samples = lora(), answers()
    configs = _configs(model)
    with checks.untouched((model, samples, "cross-entropy")):
        _measure_everything(Problem(model, samples))
    assert _configs(model) == configs


def test_a_refused_model_is_left_alone() -> None:
    model, samples = _unshifted(), text()
    with checks.untouched((model, samples, "cross-entropy")), pytest.raises(InputError):
        Problem(model, samples)


# -- what cannot be measured is refused ------------------------------------------------------------


def _config() -> Any:
    return gpt2().config


def _headless() -> nn.Module:
    headless: nn.Module = gpt2().transformer  # type: ignore[assignment]
    return headless


def _unshifted() -> nn.Module:
    """A causal model by its name whose own loss predicts the token that it reads."""
    from transformers import GPT2LMHeadModel

    class Copying(GPT2LMHeadModel):  # type: ignore[no-untyped-call]
        def forward(self, *args: Any, labels: Tensor | None = None, **named: Any) -> Any:
            output = super().forward(*args, **named)
            if labels is not None:
                output.loss = nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
            return output

    torch.manual_seed(0)
    return Copying(_config()).double()


def _own_class() -> nn.Module:
    """A class of no known ending whose own loss shifts the labels."""
    from transformers import GPT2Model, GPT2PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    class Talker(GPT2PreTrainedModel):  # type: ignore[no-untyped-call]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.body = GPT2Model(config)
            self.out = nn.Linear(config.n_embd, VOCABULARY, bias=False)
            self.post_init()  # type: ignore[no-untyped-call]

        def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
            logits = self.out(self.body(input_ids, attention_mask=attention_mask).last_hidden_state)
            loss = None
            if labels is not None:
                loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            return CausalLMOutput(loss=loss, logits=logits)

    torch.manual_seed(0)
    return Talker(_config()).double()


def _xlnet() -> nn.Module:
    """Named like a causal model; its labels are not shifted."""
    return built("XLNetLMHeadModel", vocab_size=VOCABULARY, d_model=8, n_layer=1, n_head=2, d_inner=8)


def _balanced() -> nn.Module:
    """Experts whose loss adds a term for their balance, which couples the tokens of a batch."""
    model = mixtral()
    model.config.output_router_logits = True  # type: ignore[union-attr]
    return model


@pytest.mark.parametrize(
    ("match", "model"),
    [
        ("not a tensor or an output with logits", _headless),
        ("the model's own loss", _unshifted),
        ("the model's own loss", _own_class),
        ("sees the tokens that it is to predict", _xlnet),
        ("the model's own loss", _balanced),
    ],
)
def test_what_cannot_be_measured_is_refused(match: str, model: Callable[[], nn.Module]) -> None:
    with pytest.raises(InputError, match=match):
        Problem(model(), text())


def test_a_loss_of_ones_own_is_taken() -> None:
    """The way out that the refusal names, with the numbers of the model's own loss."""
    model, samples = _unshifted(), unpadded()

    def loss(output: Any, labels: Tensor) -> Tensor:
        each = nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), reduction="none")
        return each.reshape(labels.shape).mean(1)

    problem, rows = Problem(model, samples, loss), Oracle(model, samples).rows()
    torch.testing.assert_close(problem.flatten(problem.gradient()), rows.mean(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(problem.flatten(noise(problem).vectors), rows.std(0, correction=0), rtol=0, atol=1e-12)


def test_experts_are_measured_in_float64_and_keep_their_kernel() -> None:
    """The grouped kernel that transformers chooses by itself knows no float64."""
    model, samples = mixtral("grouped_mm"), text()
    problem = Problem(model, samples)
    plain = Problem(mixtral("eager"), samples)
    assert model.get_experts_implementation() == {"": "grouped_mm"}  # type: ignore[operator]
    torch.testing.assert_close(problem.flatten(problem.gradient()), plain.flatten(plain.gradient()))
