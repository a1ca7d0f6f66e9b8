"""A model that exists with its weights, before it has seen data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from diagnose.inputs.models.catalogue import Network


@dataclass(frozen=True)
class Loaded:
    """A module and where it came from.

    Args:
        module: in evaluation mode; ours to convert, unless it is an object that Python handed over.
        name: what the user named, the last part of a path.
        form: in words, for the line that says what was understood: class and origin of the weights.
        folder: where its tokenizer and image processor may lie.
        network: the built-in architecture that it is, which says its losses and what it takes.
        random: its weights are random, so that it has numbered no classes.
    """

    module: nn.Module
    name: str
    form: str
    folder: Path | None = None
    network: Network | None = None
    random: bool = False
