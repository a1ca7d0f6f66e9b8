"""The models that go by a name, built from a seed without touching the global random state."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from diagnose.errors import InputError
from diagnose.inputs.models.catalogue import HIDDEN, Network
from diagnose.inputs.models.resnet import COLOURS, SMALLEST, ResNet20
from diagnose.inputs.random_state import seeded

CHANNELS = (16, 32)
POOLED = 4
VOCABULARY = 257
"""256 bytes and the padding token 256."""
POSITIONS = 512


def build(network: Network, shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    """The model in float32 on the CPU, in evaluation mode.

    All but the language model remember in ``recipe`` what they were built from, so that they can be saved.

    Args:
        shape: of one sample: (d,) for rows, (C, H, W) for images, ignored for text.
        outputs: classes, or 1.

    Raises:
        InputError: images that the model doesn't take.
    """
    with seeded(seed):
        if network.takes == "text":
            return language_model().eval()
        model = _built(network, shape, outputs)
    vars(model)["recipe"] = {"architecture": network.name, "config": {"shape": list(shape), "outputs": outputs}}
    return model.eval()


def _built(network: Network, shape: tuple[int, ...], outputs: int) -> nn.Module:
    if network.family == "linear":
        model = nn.Linear(shape[0], outputs, bias=False)
        nn.init.zeros_(model.weight)
        return model
    if network.takes == "rows":
        return mlp(shape[0], outputs)
    return resnet20(shape, outputs) if network.name == "resnet20" else cnn(shape, outputs)


def resnet20(shape: tuple[int, ...], classes: int) -> nn.Module:
    """ResNet-20 for images of three channels and any size from 8 x 8 on."""
    refuse_images(shape)
    return ResNet20(classes)


def refuse_images(shape: tuple[int, ...]) -> None:
    """Raise InputError for images that a resnet20 doesn't take; one channel would pass for three."""
    colours, height, width = shape
    if colours != COLOURS:
        raise InputError(f"resnet20 takes images of {COLOURS} channels, these have {colours}", "", "use `cnn`")
    if min(height, width) < SMALLEST:
        what = f"resnet20 takes images of at least {SMALLEST}×{SMALLEST} pixels, these have {height}×{width}"
        raise InputError(what, "", "use `cnn`")


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
