"""Text as samples: consecutive blocks of tokens."""

from __future__ import annotations

from diagnose.errors import InputError
from diagnose.inputs.data.tables import Array, Text

DEFAULT_LENGTH = 128


def length(asked: int | None, positions: int | None, model: str, default: int = DEFAULT_LENGTH) -> int:
    """Tokens in a sample: what --max-length says, else the default or as many as the model has positions.

    Raises:
        InputError: more than the model has positions.
    """
    if positions is None:
        return asked or default
    if asked and asked > positions:
        raise InputError(
            f"`{asked}` is more than the {positions} positions of {model}", "--max-length", f"use at most {positions}"
        )
    return asked or min(default, positions)


def cut(text: Text, size: int) -> Array:
    """Blocks without overlap, shape (n, size); a last short one is dropped.

    Raises:
        InputError: the text is shorter than one block.
    """
    count = text.tokens.size // size
    if not count:
        have = text.tokens.size
        hint = f"use `--max-length {have}` or a longer text" if have >= 2 else "give a longer text"
        raise InputError(f"{have:,} {text.unit} are shorter than one block of {size}", text.name, hint)
    return text.tokens[: count * size].reshape(count, size)


def note(text: Text, size: int) -> str:
    """How the text was cut, in words."""
    rest = text.tokens.size % size
    end = f"the last {text.unit.removesuffix('s')}" if rest == 1 else f"the last {rest:,} {text.unit}"
    tail = f", {end} dropped" if rest else ""
    return f"{text.tokens.size:,} {text.unit} in {text.tokens.size // size:,} blocks of {size}{tail}"
