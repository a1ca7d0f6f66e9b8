"""Every key of result.json has words, and no words are left of a key that is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

import pytest

from estimators.results import stored_keys
from reports.record.diagnosis import PARTS
from reports.words import glossary

INSIDE = {**glossary.WITHIN, **glossary.OF_METHODS}


def keys_of(kind: Any) -> set[str]:
    """The keys of the row in the type of an object or of one by method."""
    if hasattr(kind, "__required_keys__"):
        return set(kind.__annotations__) - {"why"}
    return {key for inner in get_args(kind) for key in keys_of(inner)}


def check(keys: set[str], words: Mapping[str, str]) -> None:
    """An interval may have its value's words."""
    assert not {key for key in keys if not {key, glossary.interval_of(key)} & set(words)}
    assert set(words) <= keys


@pytest.mark.parametrize("part", PARTS)
def test_every_key_of_a_part_has_words(part: str) -> None:
    check(set(stored_keys(PARTS[part])), glossary.KEYS[part])


@pytest.mark.parametrize("where", INSIDE)
def test_every_key_inside_a_part_has_words(where: str) -> None:
    part, key = where.split(".")
    (rows,) = get_type_hints(PARTS[part], include_extras=True)[key].__metadata__
    keys = keys_of(rows)
    assert keys
    check(keys, INSIDE[where])


def test_words_are_words() -> None:
    assert set(glossary.KEYS) == set(glossary.PARTS) == set(PARTS)
    assert not [w for words in glossary.KEYS.values() for w in words.values() if re.search(r"[a-z]_[a-z]", w)]


def test_an_unknown_key_is_said_without_its_underscores() -> None:
    assert glossary.named(("noise", "brand_new")) == ("brand new", "")
