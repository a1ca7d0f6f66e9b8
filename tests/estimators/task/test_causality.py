"""Next-token models that see their labels are refused; those that do not, are not, whatever they are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimators import InputError, Problem
from tests.markers import marked
from tests.transformers_cases import (
    ENDS,
    HEADS,
    IGNORED,
    SMALL,
    VOCABULARY,
    answers,
    bert_masked,
    built,
    gpt2,
    lora,
    mamba,
    masked,
    mixtral,
    pairs,
    t5,
    text,
    unpadded,
)

SEEN = "sees the tokens that it is to predict"
ENCODERS: dict[str, dict[str, Any]] = {
    "BertLMHeadModel": {},
    "RobertaForCausalLM": {"max_position_embeddings": 12},
    "CamembertForCausalLM": {"max_position_embeddings": 12},
    "XLMRobertaForCausalLM": {"max_position_embeddings": 12},
    "ElectraForCausalLM": {"embedding_size": 8},
    "Data2VecTextForCausalLM": {"max_position_embeddings": 12},
    "ErnieForCausalLM": {},
    "MegatronBertForCausalLM": {},
    "RemBertForCausalLM": {"input_embedding_size": 8, "output_embedding_size": 8},
    "RoFormerForCausalLM": {"embedding_size": 8},
    "RobertaPreLayerNormForCausalLM": {"max_position_embeddings": 12},
    "XLMRobertaXLForCausalLM": {"max_position_embeddings": 12},
    "BigBirdForCausalLM": {"attention_type": "original_full"},
}
"""Encoders that transformers opens as causal models, whose config says is_decoder false by itself."""


def fresh(name: str, **settings: Any) -> nn.Module:
    """As transformers initialises it, in float32: attention to later tokens moves scores by 1 in 1,000."""
    import transformers

    cls: Any = getattr(transformers, name)
    torch.manual_seed(0)
    model: nn.Module = cls(cls.config_class(**settings))
    return model


@pytest.mark.parametrize("make", [fresh, built])
@pytest.mark.parametrize("name", marked("sweep", ENCODERS, ["BertLMHeadModel", "RoFormerForCausalLM"]))
def test_an_encoder_as_causal_model(name: str, make: Callable[..., nn.Module]) -> None:
    """Refused; with is_decoder true, as the refusal says, taken."""
    settings: dict[str, Any] = {**SMALL, **HEADS, **ENDS, "pad_token_id": 0, **ENCODERS[name]}
    with pytest.raises(InputError, match=SEEN) as refused:
        Problem(make(name, **settings), answers())
    assert refused.value.where == name
    stem = name.replace("ForCausalLM", "").replace("LMHeadModel", "")
    assert refused.value.hint == (
        f"set `is_decoder` to true in its config (config.json), or give {stem}ForMaskedLM in its place "
        "(there under `architectures`)"
    )
    Problem(make(name, **settings, is_decoder=True), answers())
    Problem(make(f"{stem}ForMaskedLM", **settings), masked())


@pytest.mark.parametrize("family", ["Bert", "Roberta", "Electra"])
def test_a_masked_model_that_looks_back_alone(family: str) -> None:
    """What transformers warns of, and the warning is muted."""
    settings: dict[str, Any] = {**SMALL, **HEADS, "max_position_embeddings": 12, "pad_token_id": 0}
    with pytest.raises(InputError, match="is_decoder true") as refused:
        Problem(built(f"{family}ForMaskedLM", **settings, is_decoder=True), masked())
    assert refused.value.hint.startswith("set `is_decoder` to false")
    Problem(built(f"{family}ForMaskedLM", **settings, is_decoder=False), masked())


@pytest.mark.parametrize("name", ["XLMWithLMHeadModel", "FlaubertWithLMHeadModel"])
def test_a_head_of_that_name_fills_in_masked_tokens(name: str) -> None:
    """Its own loss, which the opening compares, does not shift the labels."""
    shape = {"emb_dim": 8, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 10}
    Problem(built(name, vocab_size=VOCABULARY, **shape, pad_index=0, pad_token_id=0), masked())


def test_xlnet_sees_every_token() -> None:
    model = built("XLNetLMHeadModel", vocab_size=VOCABULARY, d_model=8, n_layer=1, n_head=2, d_inner=8)
    with pytest.raises(InputError, match=SEEN):
        Problem(model, text())


@pytest.mark.parametrize("make", [gpt2, lora, lambda: lora("CAUSAL_LM"), mamba, mixtral])
@pytest.mark.parametrize("samples", [text, answers, unpadded])
@pytest.mark.parametrize("dtype", marked("sweep", [torch.float32, torch.float64, torch.bfloat16], [torch.float32]))
def test_causal_models_are_taken(
    make: Callable[[], nn.Module], samples: Callable[[], dict[str, Tensor]], dtype: torch.dtype
) -> None:
    Problem(make().to(dtype), samples())


def test_masked_models_and_encoder_decoders_are_taken() -> None:
    Problem(bert_masked(), masked())
    Problem(t5(), pairs())


def test_a_decoder_that_sees_its_labels() -> None:
    """A mask of one's own, which is added to the scores of attention, lets every position see all."""
    samples = pairs()
    n, length = samples["labels"].shape
    for mask, sees in ((torch.zeros(length, length), True), (torch.full((length, length), -1e9).triu(1), False)):
        named = {**samples, "decoder_attention_mask": mask.expand(n, 1, -1, -1)}
        if sees:
            with pytest.raises(InputError, match=SEEN):
                Problem(t5(), named)
        else:
            Problem(t5(), named)


# -- modules without a head ------------------------------------------------------------------------


class Attending(nn.Module):
    """One layer of attention over embeddings, with a gate. ``reach``: how many of the next tokens a position sees;
    tokens before ``prefix`` are seen by all."""

    def __init__(self, reach: int, gate: float = 1.0, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.reach = reach
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.places = nn.Embedding(16, width)
        self.gate = nn.Parameter(torch.full((), gate))
        self.out = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids: Tensor, prefix: Tensor | None = None) -> Tensor:
        x = self.tokens(input_ids) + self.places.weight[: input_ids.shape[1]]
        at = torch.arange(input_ids.shape[1])
        seen = (at[None, :] <= at[:, None] + self.reach)[None]
        if prefix is not None:
            seen = seen | (at < prefix[:, None])[:, None, :]
        scores = torch.where(seen, x @ x.mT / x.shape[-1], -torch.inf)
        logits: Tensor = self.out(x + self.gate * scores.softmax(-1) @ x)
        return logits


def next_tokens(n: int = 6, length: int = 12) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (n, length + 1), generator=g)
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("reach", [1, 3, 100])
@pytest.mark.parametrize("gate", [1.0, 1e-2, 0.0])
def test_a_module_that_sees_its_labels(reach: int, gate: float) -> None:
    """Also where a gate that is 0 hides it at this point, as zero-initialised residual branches do."""
    inputs, labels = next_tokens()
    with pytest.raises(InputError, match=SEEN) as refused:
        Problem(Attending(reach, gate), (inputs, labels))
    assert refused.value.where == "Attending"
    with pytest.raises(InputError, match=SEEN):
        Problem(Attending(reach, gate), {"input_ids": inputs, "labels": labels})
    Problem(Attending(0, gate), (inputs, labels))
    Problem(Attending(0, gate), {"input_ids": inputs, "labels": labels})


def test_a_module_that_sees_the_label_of_one_token() -> None:
    """Rows of one label each, and a text of one token over and over."""
    inputs, labels = next_tokens()
    one = labels.clone()
    one[:, :5] = one[:, 6:] = IGNORED
    same = torch.zeros_like(inputs)
    for module in (Attending(1), Attending(100)):
        with pytest.raises(InputError, match=SEEN):
            Problem(module, (inputs, one))
    Problem(Attending(0), (inputs, one))
    Problem(Attending(0), (same, same))


def test_a_prompt_may_be_seen_whole() -> None:
    """A prefix language model: every position sees the whole prompt, and of the answer what came before."""
    inputs, labels = next_tokens()
    prefix = torch.tensor([3, 5, 4, 6, 3, 7])
    answer = torch.where(torch.arange(12) >= prefix[:, None] - 1, labels, IGNORED)
    samples = {"input_ids": inputs, "prefix": prefix, "labels": answer}
    Problem(Attending(0), samples)
    with pytest.raises(InputError, match=SEEN):
        Problem(Attending(0), {**samples, "labels": labels})


def test_labels_of_each_token_are_no_next_tokens() -> None:
    """A tagger may look both ways, and so may whoever gives a loss of their own."""
    inputs, labels = next_tokens()
    Problem(Attending(100), (inputs, inputs))
    Problem(Attending(100), (inputs, (inputs * 7) % VOCABULARY))
    Problem(
        Attending(100),
        (inputs, labels),
        lambda output, targets: F.cross_entropy(output.mT, targets, reduction="none").mean(1),
    )


def test_embeddings_as_inputs() -> None:
    """What forward reads may be embeddings instead of tokens."""
    for decoder, sees in ((False, True), (True, False)):
        model: Any = built("BertLMHeadModel", **SMALL, **HEADS, is_decoder=decoder)
        samples = unpadded()
        with torch.no_grad():
            embeds = model.bert.embeddings.word_embeddings(samples["input_ids"])
        named = {"inputs_embeds": embeds, "labels": samples["labels"]}
        if sees:
            with pytest.raises(InputError, match=SEEN):
                Problem(model, named)
        else:
            Problem(model, named)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_tells_encoders_as_well(dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=SEEN):
        Problem(built("BertLMHeadModel", **SMALL, **HEADS).to(dtype), text())
    Problem(built("BertLMHeadModel", **SMALL, **HEADS, is_decoder=True).to(dtype), text())
