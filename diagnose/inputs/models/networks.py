"""The models that go by a name, built from a seed without touching the global random state."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from diagnose.errors import InputError
from diagnose.schema import NOT_YET
from diagnose.settings import Family, printable

HIDDEN = 64
CHANNELS = (16, 32)
POOLED = 4
VOCABULARY = 257
"""256 bytes and the padding token 256."""
POSITIONS = 512
LATER = ("resnet20",)
FILES = (".pt", ".pt2", ".pth", ".ckpt", ".bin", ".safetensors", ".json", ".gguf", ".onnx")


@dataclass(frozen=True)
class Network:
    """A model by name: what it takes and which losses fit it (the first is its default)."""

    name: str
    family: Family
    takes: Literal["rows", "images", "text"]
    losses: tuple[str, ...]
    form: str


NETWORKS = {
    network.name: network
    for network in (
        Network("logreg", "linear", "rows", ("logistic",), "wᵀx without bias, starting at w = 0"),
        Network("softmax", "linear", "rows", ("cross-entropy",), "Wx without bias, starting at W = 0"),
        Network(
            "mlp", "network", "rows", ("cross-entropy", "logistic", "squared"), f"two hidden layers of {HIDDEN}, GELU"
        ),
        Network(
            "cnn",
            "network",
            "images",
            ("cross-entropy", "logistic", "squared"),
            "two 3×3 convolutions with batch norm (in evaluation mode) and GELU, average pooling, one linear layer",
        ),
        Network("gpt2-mini", "language", "text", ("cross-entropy",), "GPT-2 over bytes, 4 layers of width 128"),
    )
}


def find(name: str) -> Network:
    """A built-in model by its name.

    Raises:
        InputError: an unknown name, or a kind of model that this version does not open.
    """
    network = NETWORKS.get(name)
    if network:
        return network
    valid = ", ".join(NETWORKS)
    shown = printable(name)
    if _named_elsewhere(name):
        raise InputError(f"model `{shown}`", NOT_YET, f"use {valid}, or a torch.nn.Module with diagnose.run")
    near = difflib.get_close_matches(name, NETWORKS, n=1)
    raise InputError("unknown model", shown, f"did you mean `{near[0]}`?" if near else f"use one of {valid}")


def _named_elsewhere(name: str) -> bool:
    """Model files, folders, the hub and factories."""
    return name.lower().endswith(FILES) or name.startswith("hf:") or name in LATER or "/" in name or ":" in name


def build(network: Network, shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    """The model in float32 on the CPU, in evaluation mode.

    Args:
        shape: of one sample: (d,) for rows, (C, H, W) for images, ignored for text.
        outputs: classes, or 1.
    """
    with seeded(seed):
        if network.takes == "text":
            return language_model().eval()
        if network.family == "linear":
            model = nn.Linear(shape[0], outputs, bias=False)
            nn.init.zeros_(model.weight)
            return model.eval()
        return (mlp(shape[0], outputs) if network.takes == "rows" else cnn(shape, outputs)).eval()


def mlp(features: int, outputs: int) -> nn.Module:
    """Two hidden layers with GELU."""
    return named(
        hidden1=nn.Linear(features, HIDDEN),
        gelu1=nn.GELU(),
        hidden2=nn.Linear(HIDDEN, HIDDEN),
        gelu2=nn.GELU(),
        output=nn.Linear(HIDDEN, outputs),
    )


def cnn(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Two convolutions, then averages over about 4 x 4 windows (their size fixed: adaptive pooling adds in a
    random order on a GPU), then a linear layer.
    """
    colours, height, width = shape
    window = max(1, height // POOLED), max(1, width // POOLED)
    first, second = CHANNELS
    return named(
        conv1=nn.Conv2d(colours, first, 3, padding=1, bias=False),
        norm1=nn.BatchNorm2d(first),
        gelu1=nn.GELU(),
        conv2=nn.Conv2d(first, second, 3, padding=1, bias=False),
        norm2=nn.BatchNorm2d(second),
        gelu2=nn.GELU(),
        pool=nn.AvgPool2d(window),
        flatten=nn.Flatten(),
        output=nn.Linear(second * (height // window[0]) * (width // window[1]), outputs),
    )


def named(**layers: nn.Module) -> nn.Module:
    """Layers in a row under names that a reader of the page knows."""
    return nn.Sequential(OrderedDict(layers))


def language_model() -> nn.Module:
    """A GPT-2 of 0.9M parameters over bytes, without dropout; attention that has second derivatives."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=128,
        n_layer=4,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=VOCABULARY - 1,
        use_cache=False,
    )
    model = GPT2LMHeadModel(config)
    model.set_attn_implementation("eager")
    return model


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The CPU's random numbers follow ``seed`` inside and go on as before outside."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
