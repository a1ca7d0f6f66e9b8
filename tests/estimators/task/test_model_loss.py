"""Where a model's own loss is another, the refusal names what to change, and doing so works."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimators import InputError, Problem
from tests.transformers_cases import ENDS, HEADS, SMALL, VOCABULARY, built, mixtral, text, unpadded

BART = {
    "vocab_size": VOCABULARY,
    "d_model": 8,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 12,
    "max_position_embeddings": 10,
}


def refused(model: nn.Module, samples: dict[str, Tensor]) -> InputError:
    with pytest.raises(InputError, match="the model's own loss of a sample") as caught:
        Problem(model, samples)
    return caught.value


def routed() -> nn.Module:
    model: Any = mixtral()
    model.config.output_router_logits = True
    return model  # type: ignore[no-any-return]


def test_a_routing_loss_names_its_entry_of_the_config() -> None:
    model: Any = routed()
    before = dict(vars(model.config)), model.router_aux_loss_coef
    hint = refused(model, text()).hint
    assert hint.startswith("set `output_router_logits` to false in its config (config.json)")
    assert before == (dict(vars(model.config)), model.router_aux_loss_coef)
    model.config.output_router_logits = False
    Problem(model, text())


def test_an_entry_that_the_model_copied_is_named_as_well() -> None:
    """One whose routing term remains whatever it returns: its coefficient is what to change."""
    from transformers import GPT2LMHeadModel

    class Balanced(GPT2LMHeadModel):  # type: ignore[no-untyped-call]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.router_aux_loss_coef = config.router_aux_loss_coef

        def forward(self, *args: Any, labels: Tensor | None = None, **named: Any) -> Any:
            output = super().forward(*args, labels=labels, **named)
            if labels is not None:
                output.loss = output.loss + self.router_aux_loss_coef * 0.7 + self.config.z_loss_weight * 0.3
            return output

    config: Any = built("GPT2LMHeadModel", n_embd=8, n_layer=1, n_head=2, vocab_size=VOCABULARY, **ENDS).config
    config.router_aux_loss_coef, config.z_loss_weight = 0.01, 0.0
    hint = refused(Balanced(config), unpadded()).hint
    assert hint.startswith("set `router_aux_loss_coef` to 0.0 in its config")
    config.z_loss_weight = 0.02
    model = Balanced(config)
    hint = refused(model, unpadded()).hint
    assert hint.startswith("set `router_aux_loss_coef` to 0.0, `z_loss_weight` to 0.0 in its config")
    assert (model.router_aux_loss_coef, config.router_aux_loss_coef, config.z_loss_weight) == (0.01, 0.01, 0.02)
    config.router_aux_loss_coef = config.z_loss_weight = 0.0
    Problem(Balanced(config), unpadded())


class Wrapped(nn.Module):
    """The logits of a model alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits: Tensor = self.inner(input_ids, attention_mask=attention_mask).logits
        return logits


@pytest.mark.parametrize("name", ["BartForCausalLM", "MBartForCausalLM", "PegasusForCausalLM", "TrOCRForCausalLM"])
def test_a_class_that_does_not_shift_its_labels(name: str) -> None:
    """Wrapped as the refusal says, its loss is that of the next token."""
    model = built(name, **BART, **ENDS, pad_token_id=0)
    hint = refused(model, text()).hint
    assert hint.startswith("its own loss does not shift the labels; name a factory, `package.module:factory`")
    samples = text()
    problem = Problem(Wrapped(model), samples)
    with torch.no_grad():
        logits = model.eval()(samples["input_ids"], attention_mask=samples["attention_mask"]).logits
    each = nn.functional.cross_entropy(logits[:, :-1].mT, samples["labels"][:, 1:], reduction="none")
    expected = (each.sum(1) / (samples["labels"][:, 1:] >= 0).sum(1)).mean()
    assert problem.loss() == pytest.approx(float(expected), rel=1e-6)


def test_a_loss_for_another_problem_names_the_entry() -> None:
    model: Any = built("BertForSequenceClassification", **SMALL, **HEADS, num_labels=3)
    model.config.problem_type = "regression"
    samples = {**text(), "labels": torch.tensor([2, 0, 1, 1, 2])}
    with pytest.raises(InputError, match="problem_type regression") as caught:
        Problem(model, samples)
    assert caught.value.hint.startswith("set `problem_type` to null in its config")
    model.config.problem_type = None
    Problem(model, samples)
