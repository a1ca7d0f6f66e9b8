"""Class numbers of a classifier that exists: which of its outputs a label stands for; what it can't tell is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diagnose.errors import InputError
from diagnose.inputs.data.tables import Array
from diagnose.settings import listed

GENERIC = re.compile(r"LABEL_\d+")
"""What transformers calls classes that nobody named."""
WHOLE = re.compile(r"[+-]?\d+(\.0*)?", re.ASCII)
"""A whole number as text."""
LISTED = 4


@dataclass(frozen=True)
class Classes:
    """What a classifier that exists tells apart.

    Args:
        outputs: how many classes; None where neither its configuration nor its output tells.
        names: the output that each name stands for.
        doubtful: names that the model gives to several outputs.
        random: the weights are random, so that any order of the classes is as good as another.
    """

    outputs: int | None
    names: Mapping[str, int] = field(default_factory=dict)
    doubtful: frozenset[str] = frozenset()
    random: bool = False

    @property
    def chosen(self) -> list[str]:
        """Names that somebody chose."""
        return [name for name in (*self.names, *sorted(self.doubtful)) if not GENERIC.fullmatch(name)]


def whole_numbers(labels: Array) -> NDArray[np.int64] | None:
    """Labels as whole numbers, text of digits too; None for others.

    Texts that differ stay different: "1" and "01" in one file are words.
    """
    if labels.dtype.kind in "biu":
        return labels.astype(np.int64)
    if labels.dtype.kind == "f":
        return labels.astype(np.int64) if bool((labels == np.rint(labels)).all()) else None
    distinct, which = np.unique(labels, return_inverse=True)
    words = [str(word).strip() for word in distinct]
    if not all(WHOLE.fullmatch(word) and len(word) < 19 for word in words):
        return None
    numbers = np.asarray([int(word.partition(".")[0]) for word in words], dtype=np.int64)
    return numbers[which] if len(np.unique(numbers)) == len(numbers) else None


def class_numbers(labels: Array, known: Classes, model: str, name: str, one: str = "") -> tuple[Array, str]:
    """The output of a model that each label stands for, and how it was found.

    By the model's own names where these hold all labels; else whole numbers, also as text, which are the outputs
    themselves or all of them counted from 1 (for two classes -1 and 1 as well). Any other order of the classes would be
    a guess, which is as good as any for random weights alone.

    Args:
        labels: shape (n,), whole numbers or words.
        name: of the data, for messages.
        one: what to do about a model with one output.

    Raises:
        InputError: a model with one output, more classes than outputs, labels that the model can't place.
    """
    distinct, which = np.unique(labels, return_inverse=True)
    if known.outputs == 1:
        raise InputError(f"{model} has one output", name, one or "give a classifier with two classes or more")
    numbers = whole_numbers(distinct)
    words = [str(label) for label in (distinct if numbers is None or distinct.dtype.kind == "U" else numbers)]
    if known.outputs is not None and len(words) > known.outputs:
        raise InputError(
            f"{len(words):,} classes, {model} has {known.outputs}", name, "use a model with as many outputs"
        )
    places, how = _places(words, numbers, known, model, name)
    return np.asarray(places, dtype=np.int64)[which], f"{len(words):,} classes, {how}"


def _places(
    words: list[str], numbers: NDArray[np.int64] | None, known: Classes, model: str, name: str
) -> tuple[Sequence[int], str]:
    """The output of each label, in the order of ``words``, and how it was found."""
    named = _by_name(words, numbers, known, model, name)
    if named is not None:
        return named, "numbered by the model's names"
    unnumbered = not any(WHOLE.fullmatch(each) for each in known.chosen)
    if numbers is not None and unnumbered:
        held = {int(number) for number in numbers}
        if known.outputs is None or held <= set(range(known.outputs)):
            return numbers.tolist(), "numbered as in the file"
        if held == set(range(1, known.outputs + 1)):
            return (numbers - 1).tolist(), "numbered from 1 in the file"
        if known.outputs == 2 and held == {-1, 1}:
            return (numbers > 0).astype(int).tolist(), "-1 and 1 in the file"
    if not known.random:
        raise _unplaced(words, numbers, known, model, name)
    order = np.argsort(np.arange(len(words)) if numbers is None else numbers)
    places = np.empty(len(words), dtype=np.int64)
    places[order] = np.arange(len(words))
    return places.tolist(), "numbered in sorted order"


def _by_name(
    words: list[str], numbers: NDArray[np.int64] | None, known: Classes, model: str, name: str
) -> list[int] | None:
    """The outputs that bear the labels as names; None unless all do."""
    keys = []
    for position, word in enumerate(words):
        number = None if numbers is None else str(numbers[position])
        key = next((each for each in (word, number) if each in known.names or each in known.doubtful), None)
        if key is None:
            return None
        keys.append(key)
    doubtful = [key for key in keys if key in known.doubtful]
    if doubtful:
        what = f"{model} gives the name {listed(doubtful, LISTED)} to several outputs"
        raise InputError(what, name, "correct `id2label` and `label2id` in its config.json")
    return [known.names[key] for key in keys]


def _unplaced(words: list[str], numbers: NDArray[np.int64] | None, known: Classes, model: str, name: str) -> InputError:
    """The refusal of labels whose order would be a guess, with the labels and what the model has for them."""
    order = range(len(words)) if numbers is None else np.argsort(numbers)
    labels = listed([words[position] for position in order], LISTED)
    outputs = "" if known.outputs is None else f" 0 to {known.outputs - 1}"
    if known.chosen or (numbers is None and known.names):
        what = f"labels {labels}, {model} knows {listed(known.chosen or list(known.names), LISTED)}"
        return InputError(what, name, "name the classes as the model does, or by their numbers from 0")
    if numbers is None:
        what = f"labels {labels}, {model} has no names for its outputs{outputs}"
        return InputError(what, name, "number the classes from 0, as the model was trained")
    what = f"labels {labels}, {model} has the outputs{outputs}"
    return InputError(what, name, "number the classes as the model does")
