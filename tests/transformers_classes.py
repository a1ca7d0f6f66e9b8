"""Many classes of transformers, tiny and random, by what they are trained for, and those that are left out.

Most take the same settings under one of a few sets of names; a config ignores those that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.transformers_cases import (
    ENDS,
    HEADS,
    SMALL,
    Mapped,
    built,
    classified,
    masked,
    pairs,
    text,
)

ROWS = 3
"""Samples of each: sequences of 8, 7 and 5 tokens."""


@dataclass(frozen=True)
class Class:
    """A class by its name. ``refused``: what the refusal says; ``known``: why a measured value is known to be wrong."""

    name: str
    settings: Mapping[str, Any]
    all_samples: Callable[[], Mapped]
    refused: str = ""
    known: Mapping[str, str] = field(default_factory=dict)

    def model(self) -> nn.Module:
        return built(self.name, **self.settings)

    def samples(self) -> Mapped:
        return {name: tensor[:ROWS] for name, tensor in self.all_samples().items()}

    def __str__(self) -> str:
        return self.name


TEXT = {
    **SMALL,
    **HEADS,
    **ENDS,
    "pad_token_id": 0,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "rotary_dim": 2,
    "max_position_embeddings": 16,
    "num_labels": 3,
    "word_embed_proj_dim": 8,
    "embedding_size": 8,
}
"""Names of most language models."""
SHORT = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 12, "n_positions": 16, "n_layers": 2, "n_heads": 2}
"""Names of GPT-2 and its relatives."""
WIDE = {"d_model": 8, "dim": 8, "hidden_dim": 12, "ffn_dim": 12}
EXPERTS = {
    "num_experts": 3,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
    "experts_implementation": "eager",
}
RECURRENT = {"state_size": 3, "expand": 2, "conv_kernel": 3, "time_step_rank": 2}
LANGUAGE = {**TEXT, **SHORT, **WIDE}
SIDES = {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 12))
}
PAIRED = {**TEXT, **WIDE, **SIDES, "decoder_start_token_id": 0}
IMAGES = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "num_labels": 3,
    "num_channels": 3,
    "image_size": 8,
    "patch_size": 4,
}
STAGES = {"embed_dim": 8, "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2}


def pictures(size: int) -> Mapped:
    """Images of three channels."""
    pixels = torch.randn(ROWS, 3, size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return {"pixel_values": pixels, "labels": torch.arange(ROWS)}


def _causal() -> Iterator[Class]:
    names = (
        "Apertus Arcee BioGpt BitNet Bloom CodeGen Cohere Cohere2 DiffLlama Doge Emu3 Ernie4_5 Exaone4 GPTBigCode GPTJ "
        "GPTNeoX Gemma Gemma2 Glm Granite Helium Lfm2 Llama Ministral Mistral ModernBertDecoder Mpt NanoChat Nemotron "
        "OPT Olmo2 Persimmon Phi3 Qwen2 Qwen3 SmolLM3 StableLm Starcoder2"
    )
    for name in names.split():
        yield Class(f"{name}ForCausalLM", LANGUAGE, text)
    yield Class("GPT2LMHeadModel", LANGUAGE, text)
    for name in ["Ernie4_5_Moe", "GptOss", "GraniteMoe", "Mixtral", "Qwen2Moe"]:
        yield Class(f"{name}ForCausalLM", {**LANGUAGE, **EXPERTS}, text)
    yield Class("MambaForCausalLM", {**LANGUAGE, **RECURRENT}, text)
    astray = "the gradient is not that of the loss"
    yield Class("HrmTextForCausalLM", LANGUAGE, text, refused=astray)  # all but its last round is under no_grad
    own = "the model's own loss"
    yield Class("BartForCausalLM", PAIRED, text, refused=own)  # its labels are not shifted


def _others() -> Iterator[Class]:
    names = "Albert Bert Deberta DistilBert Electra Esm EuroBert MPNet ModernBert Roberta RoFormer SqueezeBert"
    for name in names.split():
        yield Class(f"{name}ForMaskedLM", LANGUAGE, masked)
    padding = partial(_without_padding, masked)  # these let padding into what they compute
    for name in ("ConvBert", "FNet", "Nystromformer"):
        yield Class(f"{name}ForMaskedLM", LANGUAGE, padding)
    astray = "the gradient is not that of the loss"
    yield Class("YosoForMaskedLM", LANGUAGE, masked, refused=astray)  # its backward is an estimate of its own
    for name in ["Bart", "M2M100", "Pegasus"]:
        yield Class(f"{name}ForConditionalGeneration", PAIRED, pairs)
    for name in ["Bert", "DebertaV2", "GPT2", "Gemma2", "Llama"]:
        yield Class(f"{name}ForSequenceClassification", LANGUAGE, classified)
    for name in ["Beit", "DeiT", "Dinov2", "IJepa", "ViT", "ViTMSN"]:
        yield Class(f"{name}ForImageClassification", IMAGES, partial(pictures, 8))
    for name in ["ConvNext", "ConvNextV2", "FocalNet", "ResNet"]:
        settings = {**IMAGES, **STAGES, "image_size": 32}
        yield Class(f"{name}ForImageClassification", settings, partial(pictures, 32))


def _without_padding(samples: Callable[[], Mapped]) -> Mapped:
    """The tokens that all rows have."""
    all_samples = samples()
    shortest = int(all_samples["attention_mask"][:ROWS].sum(1).min())
    return {name: tensor[:, :shortest] for name, tensor in all_samples.items()}


CLASSES = (*_causal(), *_others())
