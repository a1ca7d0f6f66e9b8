"""Tensors by layer: real names of common architectures, sums, pictures of deep networks."""

from __future__ import annotations

import math

import pytest

from reports.page.layers import by_layer, joined, largest_kind, places
from reports.page.tables import MOST_ROWS, of_layers
from tests.reports import made

GPT2_BLOCK = ("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight")
BERT_BLOCK = (
    "attention.self.query.weight",
    "attention.output.dense.weight",
    "attention.output.LayerNorm.weight",
    "intermediate.dense.weight",
    "output.dense.weight",
)
T5_ENCODER = (
    "layer.0.SelfAttention.q.weight",
    "layer.0.layer_norm.weight",
    "layer.1.DenseReluDense.wi.weight",
    "layer.1.layer_norm.weight",
)
T5_DECODER = (
    "layer.0.SelfAttention.q.weight",
    "layer.1.EncDecAttention.q.weight",
    "layer.2.DenseReluDense.wi.weight",
)
LLAMA_BLOCK = ("self_attn.q_proj.weight", "mlp.gate_proj.weight", "input_layernorm.weight")
RESNET_BLOCK = ("conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "bn2.bias")

LORA = ("attn.c_attn.lora_A.default.weight", "attn.c_attn.lora_B.default.weight")


def blocks(stem: str, members: tuple[str, ...], count: int = 2) -> list[str]:
    return [f"{stem}.{k}.{member}" for k in range(count) for member in members]


ARCHITECTURES: dict[str, tuple[list[str], list[str]]] = {
    "GPT-2": (
        [
            "transformer.wte.weight",
            "transformer.wpe.weight",
            *blocks("transformer.h", GPT2_BLOCK),
            "transformer.ln_f.weight",
            "transformer.ln_f.bias",
        ],
        ["transformer.wte", "transformer.wpe", "transformer.h.0", "transformer.h.1", "transformer.ln_f"],
    ),
    "BERT": (
        [
            "bert.embeddings.word_embeddings.weight",
            "bert.embeddings.LayerNorm.weight",
            *blocks("bert.encoder.layer", BERT_BLOCK),
            "cls.predictions.bias",
            "cls.predictions.transform.dense.weight",
        ],
        ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "cls"],
    ),
    "ViT": (
        [
            "vit.embeddings.cls_token",
            "vit.embeddings.patch_embeddings.projection.weight",
            *blocks("vit.layers", ("attention.q_proj.weight", "mlp.fc1.weight", "layernorm_before.weight")),
            "vit.layernorm.weight",
            "classifier.weight",
            "classifier.bias",
        ],
        ["vit.embeddings", "vit.layers.0", "vit.layers.1", "vit.layernorm", "classifier"],
    ),
    "OPT": (
        [
            "model.decoder.embed_tokens.weight",
            "model.decoder.embed_positions.weight",
            "model.decoder.final_layer_norm.weight",
            *blocks("model.decoder.layers", ("self_attn.k_proj.weight", "fc1.weight", "fc1.bias")),
        ],
        [
            "model.decoder.embed_tokens",
            "model.decoder.embed_positions",
            "model.decoder.final_layer_norm",
            "model.decoder.layers.0",
            "model.decoder.layers.1",
        ],
    ),
    "T5": (
        [
            "shared.weight",
            *blocks("encoder.block", T5_ENCODER),
            "encoder.final_layer_norm.weight",
            *blocks("decoder.block", T5_DECODER),
            "decoder.final_layer_norm.weight",
            "lm_head.weight",
        ],
        [
            "shared",
            "encoder.block.0",
            "encoder.block.1",
            "encoder.final_layer_norm",
            "decoder.block.0",
            "decoder.block.1",
            "decoder.final_layer_norm",
            "lm_head",
        ],
    ),
    "Llama": (
        ["model.embed_tokens.weight", *blocks("model.layers", LLAMA_BLOCK), "model.norm.weight", "lm_head.weight"],
        ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"],
    ),
    "Mixtral": (
        [
            "model.embed_tokens.weight",
            *blocks("model.layers", ("mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj")),
            "model.norm.weight",
            "lm_head.weight",
        ],
        ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"],
    ),
    "Mixtral, experts apart": (
        [
            "model.embed_tokens.weight",
            *blocks("model.layers", tuple(f"block_sparse_moe.experts.{k}.w1.weight" for k in range(8))),
            "lm_head.weight",
        ],
        ["model.embed_tokens", "model.layers.0", "model.layers.1", "lm_head"],
    ),
    "Mamba": (
        [
            "backbone.embeddings.weight",
            *blocks("backbone.layers", ("norm.weight", "mixer.A_log", "mixer.conv1d.weight")),
            "backbone.norm_f.weight",
        ],
        ["backbone.embeddings", "backbone.layers.0", "backbone.layers.1", "backbone.norm_f"],
    ),
    "ResNet-20": (
        [
            "conv1.weight",
            "bn1.weight",
            "bn1.bias",
            *blocks("layer1", RESNET_BLOCK, 3),
            *blocks("layer2", RESNET_BLOCK, 3),
            "linear.weight",
            "linear.bias",
        ],
        ["conv1", "bn1", *(f"layer{i}.{k}" for i in (1, 2) for k in range(3)), "linear"],
    ),
    "ResNet with downsampling": (
        [
            "conv1.weight",
            *blocks("layer1", RESNET_BLOCK),
            *blocks("layer2", RESNET_BLOCK),
            "layer2.0.downsample.0.weight",
            "layer2.0.downsample.1.weight",
            "fc.weight",
        ],
        ["conv1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "fc"],
    ),
    "LoRA around GPT-2": (
        [*blocks("base_model.model.transformer.h", LORA, 3), "base_model.model.score.modules_to_save.default.weight"],
        [*(f"base_model.model.transformer.h.{k}" for k in range(3)), "base_model.model.score"],
    ),
    "sentence encoder": (
        [
            "0.auto_model.embeddings.word_embeddings.weight",
            *blocks("0.auto_model.encoder.layer", BERT_BLOCK),
            "2.linear.weight",
        ],
        ["0.auto_model.embeddings", "0.auto_model.encoder.layer.0", "0.auto_model.encoder.layer.1", "2"],
    ),
    "blocks in a Sequential": (
        [*blocks("0", ("weight", "bias"), 1), *(f"{k}.conv.weight" for k in (1, 2)), "3.weight"],
        ["0", "1", "2", "3"],
    ),
}


def distinct(names: list[str]) -> list[str]:
    return list(dict.fromkeys(place.layer for place in places(names)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_of_common_architectures(architecture: str) -> None:
    names, expected = ARCHITECTURES[architecture]
    names = list(dict.fromkeys(names))
    found = places(names)
    assert distinct(names) == expected
    assert all(name.startswith(place.layer) for name, place in zip(names, found, strict=True))


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["weight", "bias"],
        ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"],
        ["features.0.weight", "features.0.bias", "features.3.weight", "classifier.weight"],
        ["hidden.weight", "hidden.bias", "output.weight", "output.bias"],
        ["h.0.attn.weight", "h.1.attn.weight"],
        ["", ".", "..", "..weight", "a..b"],
        ["h.٣.attn.weight", "h.٤.attn.weight", "a.weight", "b.weight"],
        [f"h.{'9' * 5000}{k}.attn.weight" for k in range(3)],
    ],
)
def test_no_grouping_without_layers_or_below_three_groups(names: list[str]) -> None:
    assert places(names) == ()


def test_kinds_gather_over_layers_and_experts() -> None:
    names = [f"model.layers.{k}.moe.experts.{e}.w1.weight" for k in range(3) for e in range(4)]
    assert {place.kind for place in places(names)} == {"moe.experts.*.w1.weight"}


def test_sums_by_layer() -> None:
    table = made.language(4).noise.tensors
    assert table is not None
    layers = by_layer(table)
    assert [one.name for one in layers] == ["transformer.wte", "transformer.wpe"] + [
        f"transformer.h.{k}" for k in range(4)
    ] + ["transformer.ln_f"]
    third = [row for row in table if row["name"].startswith("transformer.h.2.")]
    one = layers[4]
    assert one.tensors == len(third)
    assert one.l1 == pytest.approx(sum(row["l1"] for row in third))
    assert one.density == pytest.approx(one.l1 / math.sqrt(one.parameters * sum(row["l2"] ** 2 for row in third)))
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert sum(layer.size for layer in layers) == pytest.approx(1)
    kind = largest_kind(table)
    assert kind is not None
    sums = {
        k: sum(row["l1"] for row in table if row["name"].endswith(f".{k}") and ".h." in row["name"])
        for k in ("mlp.c_fc.weight", "mlp.c_proj.weight", "attn.c_attn.weight")
    }
    assert sums[kind[0]] == max(sums.values())
    assert kind[1] == pytest.approx(sums[kind[0]] / sum(row["l1"] for row in table))


def test_density_is_unknown_without_every_l2() -> None:
    rows = [{"name": f"h.{k}.a.w", "parameters": 4, "l1": 1.0, "l2": 1.0 if k else None} for k in range(3)]
    assert [layer.density for layer in by_layer(rows)] == [None, 0.5, 0.5]


def test_without_a_sum_there_are_no_shares() -> None:
    assert by_layer([{"name": f"h.{k}.a.w", "parameters": 4, "l1": 0.0} for k in range(3)]) == ()
    assert by_layer(None) == ()


def test_a_picture_joins_neighbours_and_loses_nothing() -> None:
    layers = by_layer(made.language(126).noise.tensors)
    drawn = joined(layers, 40)
    assert len(drawn) <= 40
    assert drawn[2].name == "transformer.h.0–3"
    assert drawn[-2].name == "transformer.h.124–125"
    assert sum(one.share for one in drawn) == pytest.approx(1)
    assert sum(one.tensors for one in drawn) == sum(one.tensors for one in layers)
    assert drawn[2].density == pytest.approx(
        sum(one.l1 for one in layers[2:6])
        / math.sqrt(drawn[2].parameters * sum((one.l2 or 0) ** 2 for one in layers[2:6]))
    )
    assert joined(layers[:5], 40) == layers[:5]


def test_a_picture_of_many_single_groups_keeps_the_largest_in_order() -> None:
    rows = [{"name": f"h.{k}.a.w", "parameters": 1, "l1": 0.1} for k in range(2)]
    rows += [{"name": f"part{k}.w", "parameters": 1, "l1": float(k)} for k in range(100)]
    assert [one.name for one in joined(by_layer(rows), 10)] == [f"part{k}" for k in range(90, 100)]


def test_a_long_table_sums_what_it_leaves_out() -> None:
    layers = by_layer(made.language(126).noise.tensors)
    table = of_layers("layers", layers, "‖σ‖₁", "φ(σ)")
    assert len(table.rows) == MOST_ROWS
    left = sorted(layers, key=lambda one: -one.share)[MOST_ROWS:]
    assert f"The other {len(left)} layers have {sum(one.parameters for one in left):,} parameters" in table.note
    order = [one.name for one in layers]
    shown = [order.index(row[0]) for row in table.rows]
    assert shown == sorted(shown)
