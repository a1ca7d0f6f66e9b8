"""The case table of what transformers ships: tiny random models with unequal sequences, padding and ignored labels.

Each case builds its model and its samples anew from a fixed seed, in float64, in training mode and with the attention
that transformers chooses. Every weight is moved away from its start, so that no term of a derivative vanishes because
a bias is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

Mapped = dict[str, Tensor]
VOCABULARY = 23
LENGTHS = (8, 7, 5, 3, 6)
IGNORED = -100
PATH = 2 * (8 + 8 + 10 + 8 + 8 + 12) + 2 * 8
"""Lengths of the sums that follow each other from the input of one of these models to its logits, for bounds on
rounding: in each of two layers queries and scores, values over the positions, the output, two of the network behind;
norms and the head."""


@dataclass(frozen=True)
class Case:
    """A model with its samples. ``narrow``: forward rounds to float32 on the way whatever the dtype of the weights."""

    name: str
    model: Callable[[], nn.Module]
    samples: Callable[[], Mapped]
    narrow: bool = False

    def __str__(self) -> str:
        return self.name


# -- samples ---------------------------------------------------------------------------------------


def _padded() -> tuple[Tensor, Tensor]:
    """Tokens with right padding by token 0, and their attention mask. The last token of the vocabulary is in none."""
    g = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, VOCABULARY - 1, (len(LENGTHS), max(LENGTHS)), generator=g)
    mask = torch.zeros_like(tokens)
    for row, length in enumerate(LENGTHS):
        mask[row, :length] = 1
    return tokens * mask, mask


def text() -> Mapped:
    """For causal models: labels are the tokens, without padding."""
    tokens, mask = _padded()
    return {"input_ids": tokens, "attention_mask": mask, "labels": torch.where(mask == 1, tokens, IGNORED)}


def answers() -> Mapped:
    """The same without a label for prompts of 1, 2 or 3 tokens; no row has one at tokens 1 (of 0 to 7) and 4."""
    samples = text()
    for row, prompt in enumerate((3, 1, 2, 2, 1)):
        samples["labels"][row, :prompt] = IGNORED
    samples["labels"][:, [1, 4]] = IGNORED
    return samples


def unpadded() -> Mapped:
    """Sequences of equal length without a mask."""
    return {name: tensor[:, : min(LENGTHS)] for name, tensor in text().items() if name != "attention_mask"}


def masked() -> Mapped:
    """Two labelled tokens in each row, in different places; the rest is ignored."""
    tokens, mask = _padded()
    labels = torch.full_like(tokens, IGNORED)
    for row, length in enumerate(LENGTHS):
        for place in (row % length, length - 1):
            labels[row, place] = tokens[row, place]
            tokens[row, place] = VOCABULARY - 2
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def pairs() -> Mapped:
    """For sequence-to-sequence models: targets of other lengths than the inputs, ignored behind their end."""
    tokens, mask = _padded()
    g = torch.Generator().manual_seed(2)
    labels = torch.randint(1, VOCABULARY - 1, (len(LENGTHS), 6), generator=g)
    for row, length in enumerate((2, 6, 4, 5, 3)):
        labels[row, length:] = IGNORED
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def classified() -> Mapped:
    """One class for each sequence."""
    tokens, mask = _padded()
    return {"input_ids": tokens, "attention_mask": mask, "labels": torch.tensor([2, 0, 1, 1, 2])}


def images() -> Mapped:
    """Seven images of 6 x 6 with 3 channels."""
    g = torch.Generator().manual_seed(3)
    pixels = torch.randn(7, 3, 6, 6, generator=g, dtype=torch.float64)
    return {"pixel_values": pixels, "labels": torch.tensor([0, 1, 2, 1, 0, 2, 1])}


# -- models ----------------------------------------------------------------------------------------


def built(name: str, **settings: Any) -> nn.Module:
    """A model of transformers by its class, in float64 and training mode, every weight moved by a tenth or so."""
    architecture: Any = getattr(import_module("transformers"), name)
    torch.manual_seed(0)
    model: nn.Module = architecture(architecture.config_class(**settings)).double().train()
    _move(list(model.parameters()))
    return model


def _move(parameters: list[nn.Parameter]) -> None:
    g = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=g, dtype=torch.float64))


SMALL = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "hidden_size": 8}
HEADS = {"num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 10}
ENDS = {"bos_token_id": 0, "eos_token_id": 0}


def gpt2() -> nn.Module:
    """Tied embedding, LayerNorm, dropout 0.1."""
    shape = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 12, "n_positions": 10}
    return built("GPT2LMHeadModel", vocab_size=VOCABULARY, **shape, **ENDS)


def bert_masked() -> nn.Module:
    return built("BertForMaskedLM", **SMALL, **HEADS)


def bert_sequence() -> nn.Module:
    return built("BertForSequenceClassification", **SMALL, **HEADS, num_labels=3)


def vit() -> nn.Module:
    shape = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    return built("ViTForImageClassification", image_size=6, patch_size=2, num_labels=3, **shape)


def opt() -> nn.Module:
    """ReLU, so that its Hessian is that of the smooth pieces."""
    return built("OPTForCausalLM", **SMALL, **HEADS, **ENDS, pad_token_id=0, word_embed_proj_dim=8, ffn_dim=12)


def t5() -> nn.Module:
    """Encoder and decoder, relative positions, gated GELU."""
    shape = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2}
    positions = {"relative_attention_num_buckets": 4, "relative_attention_max_distance": 8}
    settings = {"vocab_size": VOCABULARY, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0}
    return built("T5ForConditionalGeneration", **settings, **shape, **positions)


def llama() -> nn.Module:
    """Rotary positions, grouped heads."""
    return built("LlamaForCausalLM", **SMALL, **HEADS, num_key_value_heads=1)


def mixtral(experts: str = "eager") -> nn.Module:
    """Each token goes to two of three experts: what runs depends on the data. ``grouped_mm``, which transformers
    chooses for the experts, has no float64."""
    settings = {**SMALL, **HEADS, "intermediate_size": 8, "num_key_value_heads": 1}
    return built(
        "MixtralForCausalLM", **settings, num_local_experts=3, num_experts_per_tok=2, experts_implementation=experts
    )


def mamba() -> nn.Module:
    """A recurrence instead of attention."""
    return built("MambaForCausalLM", **SMALL, state_size=3, expand=2, conv_kernel=3, time_step_rank=2)


def lora(task: str | None = None) -> nn.Module:
    """GPT-2 with trainable additions of rank 2 on its attention; the rest is frozen."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    adapter = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.1, task_type=task)
    wrapped: Any = get_peft_model(gpt2(), adapter)
    model: nn.Module = wrapped.double().train()
    _move([parameter for parameter in model.parameters() if parameter.requires_grad])
    return model


def frozen() -> nn.Module:
    """GPT-2 whose embeddings, and with them its tied head, are frozen."""
    model = gpt2()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("wte" not in name and "wpe" not in name)
    return model


def idle() -> nn.Module:
    """GPT-2 with a parameter that its forward never uses."""
    model = gpt2()
    model.register_parameter("idle", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    return model


CASES = (
    Case("gpt2", gpt2, answers),
    Case("gpt2-text", gpt2, text),
    Case("bert-masked", bert_masked, masked),
    Case("bert-sequence", bert_sequence, classified),
    Case("vit", vit, images),
    Case("opt", opt, text),
    Case("t5", t5, pairs, narrow=True),
    Case("llama", llama, answers, narrow=True),
    Case("mixtral", mixtral, answers, narrow=True),
    Case("mamba", mamba, answers, narrow=True),
    Case("lora", lora, answers),
    Case("lora-causal", lambda: lora("CAUSAL_LM"), answers),
    Case("frozen", frozen, answers),
    Case("idle", idle, text),
)
BY_NAME = {case.name: case for case in CASES}
