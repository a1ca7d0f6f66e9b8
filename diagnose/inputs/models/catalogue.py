"""The models that go by a name: what each takes, which losses fit it and its size. Loads no torch."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from diagnose.errors import InputError
from diagnose.settings import Family, printable

HIDDEN = 64
CLASSES = 10
"""Classes of a resnet20 that is written before it has seen data."""

IN_TORCHVISION = re.compile(
    r"(?:wide_)?resnet(?:18|34|50|101|152)\w*|vgg\d\w+|densenet\d+|(?:efficientnet|mobilenet|convnext|vit|swin)_\w+",
    re.ASCII,
)
"""Names of functions of torchvision.models."""


@dataclass(frozen=True)
class Network:
    """A model by name.

    Args:
        losses: those that fit it; the first is its default.
        form: in words.
        parameters: how many it has ``on`` that data; everywhere where ``on`` is empty.
    """

    name: str
    family: Family
    takes: Literal["rows", "images", "text"]
    losses: tuple[str, ...]
    form: str
    parameters: int
    on: str

    @property
    def size(self) -> str:
        """The number of parameters and what it is for."""
        return f"{self.parameters:,} {self.on}".rstrip()


NETWORKS = {
    network.name: network
    for network in (
        Network(
            "logreg", "linear", "rows", ("logistic",), "wᵀx without bias, starting at w = 0", 30, "on breast-cancer"
        ),
        Network(
            "softmax", "linear", "rows", ("cross-entropy",), "Wx without bias, starting at W = 0", 610, "on digits"
        ),
        Network(
            "mlp",
            "network",
            "rows",
            ("cross-entropy", "logistic", "squared"),
            f"two hidden layers of {HIDDEN}, GELU",
            8_778,
            "on digits",
        ),
        Network(
            "cnn",
            "network",
            "images",
            ("cross-entropy", "logistic", "squared"),
            "two 3×3 convolutions with batch norm (in evaluation mode) and GELU, average pooling, one linear layer",
            9_978,
            "on digits",
        ),
        Network(
            "resnet20",
            "network",
            "images",
            ("cross-entropy",),
            "ResNet-20 with batch norm (in evaluation mode), standardises its [0, 1] pixels itself",
            269_722,
            f"with {CLASSES} classes",
        ),
        Network(
            "gpt2-mini", "language", "text", ("cross-entropy",), "GPT-2 over bytes, 4 layers of width 128", 891_776, ""
        ),
    )
}


def named(name: str) -> Network:
    """A built-in model by its name.

    Raises:
        InputError: an unknown name.
    """
    network = NETWORKS.get(name)
    if network is None:
        raise InputError("unknown model", printable(name), _meant(name))
    return network


def _meant(name: str) -> str:
    """What an unknown name may stand for: a built-in one misspelt, or a model of torchvision."""
    if IN_TORCHVISION.fullmatch(name):
        return f"`torchvision.models:{name}` makes one with random weights, where torchvision is installed"
    near = difflib.get_close_matches(name, NETWORKS, n=1)
    return f"did you mean `{near[0]}`?" if near else f"use one of {', '.join(NETWORKS)}"
