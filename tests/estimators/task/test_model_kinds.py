"""What transformers models are told: which positions get logits, what the decoder is given, whose loss counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimators import InputError, Problem
from estimators.task.model_kinds import head, keeps_logits, labelled_positions, with_decoder_inputs
from estimators.task.products import hessian

transformers = pytest.importorskip("transformers")
SMALL: dict[str, Any] = {"vocab_size": 11, "n_positions": 8, "n_embd": 4, "n_layer": 1, "n_head": 1}


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL)).double()
    return model


def instruction_rows(n: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 11, (n, 8), generator=generator)
    labels = tokens.clone()
    for row in range(n):
        labels[row, : 2 + row % 3] = -100
        labels[row, 5 + row % 3 :] = -100
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}


class Subclass(nn.Module):
    """A module that wraps another, as adapters and compilers do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Tensor) -> Any:
        return self.inner(**inputs)


def test_the_head_is_found_inside_wrappers() -> None:
    assert head(gpt2()) == "causal"
    assert head(Subclass(Subclass(gpt2()))) == "causal"
    assert head(nn.Linear(2, 2)) is None


def test_only_labelled_positions_are_asked_for() -> None:
    rows = instruction_rows()
    cut = labelled_positions(rows)
    needed = [t for t in range(7) if bool((rows["labels"][:, t + 1] != -100).any())]
    assert cut["logits_to_keep"].tolist() == [*needed, 7]
    assert cut["labels"].shape == (5, len(needed) + 1)
    assert set(labelled_positions({**rows, "labels": rows["input_ids"]})) == set(rows)


@pytest.mark.parametrize("wrap", [lambda m: m, Subclass])
def test_trimming_changes_no_number(wrap: Any) -> None:
    model, rows = wrap(gpt2()), instruction_rows()
    assert keeps_logits(model)
    trimmed, whole = Problem(model, rows), Problem(model, rows)
    whole._trims = False
    assert len(next(trimmed.chunks())) == 4
    assert len(next(whole.chunks())) == 3
    direction = torch.randn(trimmed.d, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert trimmed.loss() == pytest.approx(whole.loss(), rel=1e-13)
    torch.testing.assert_close(trimmed.flatten(trimmed.gradient()), whole.flatten(whole.gradient()))
    with hessian(trimmed) as ours, hessian(whole) as theirs:
        torch.testing.assert_close(ours(direction), theirs(direction))


def test_the_decoder_is_given_the_labels_shifted_right() -> None:
    config = transformers.T5Config(
        vocab_size=11, d_model=4, d_kv=2, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config)
    labels = torch.tensor([[3, 4, -100]])
    made = with_decoder_inputs(model, {"input_ids": torch.tensor([[1, 2]]), "labels": labels})
    assert made["decoder_input_ids"].tolist() == [[0, 3, 4]]
    given = {**made, "decoder_input_ids": torch.tensor([[0, 5, 5]])}
    assert with_decoder_inputs(model, given) is given


def test_a_model_whose_own_loss_is_another_is_refused() -> None:
    class Smoothed(transformers.GPT2LMHeadModel):  # type: ignore[misc, name-defined]
        def forward(self, *args: Any, labels: Tensor | None = None, **inputs: Any) -> Any:
            output = super().forward(*args, labels=labels, **inputs)
            if labels is not None:
                output.loss = 0.5 * output.loss
            return output

    torch.manual_seed(0)
    model = Smoothed(transformers.GPT2Config(**SMALL))
    with pytest.raises(InputError, match="own loss of a sample"):
        Problem(model, instruction_rows())


def test_a_classifier_keeps_its_config() -> None:
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config)
    rows = {"input_ids": torch.randint(0, 11, (4, 5)), "labels": torch.tensor([0, 1, 2, 1])}
    Problem(model, rows)
    assert model.config.problem_type is None


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_a_classifier_for_another_loss_is_refused(kind: str, recwarn: pytest.WarningsRecorder) -> None:
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, num_labels=3
    )
    config.problem_type = kind
    model = transformers.BertForSequenceClassification(config)
    rows = {"input_ids": torch.randint(0, 11, (4, 5)), "labels": torch.tensor([0, 1, 2, 1])}
    with pytest.raises(InputError, match=f"problem_type {kind}"):
        Problem(model, rows)
    assert not recwarn
    Problem(model, rows, lambda output, labels: output.logits.square().sum(1))
