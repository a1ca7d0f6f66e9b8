"""One row as tokens and labels, cut to a length: what each kind of language model trains on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from diagnose.inputs.data.tables import Array
from diagnose.inputs.text.tokenizers import Pair, Tokenizer
from estimators.task.model_kinds import IGNORED

MASKED_SHARE = 0.15


@dataclass(frozen=True)
class Row:
    """A row, cut.

    Args:
        tokens: at most ``size`` of them.
        labels: at every token, :data:`IGNORED` for none; of a sequence-to-sequence model the tokens of the answer.
        need: the shortest length at which a label is left; None: the row has none at any length.
        truncated: whether the cut took something.
        types: which of two texts each token belongs to, 0 or 1; None for one text, or where the tokenizer tells none.
    """

    tokens: Array
    labels: Array
    need: int | None
    truncated: bool
    types: Array | None = None


def causal(prompt: Array, answer: Array | None, tokenizer: Tokenizer, size: int) -> Row:
    """Prompt, answer and the end token, with labels on the last two; without an answer labels on the whole text.

    The first label needs a token before it. What the tokenizer puts in front of a text stays in front.
    """
    head = np.concatenate([np.asarray(tokenizer.before, dtype=np.int64), prompt])
    silent = 0 if answer is None else head.size
    whole = head if answer is None else np.concatenate([head, answer, _end(tokenizer)])
    labels = whole.copy()
    labels[:silent] = IGNORED
    first = max(silent, 1)
    return Row(whole[:size], labels[:size], first + 1 if whole.size > first else None, whole.size > size)


def framed(body: Array, tokenizer: Tokenizer, size: int) -> Row:
    """The text between the tokens that the model expects around it, which the cut leaves; without labels."""
    before, after = (np.asarray(ids, dtype=np.int64) for ids in (tokenizer.before, tokenizer.after))
    around = before.size + after.size
    kept = body[: max(size - around, 0)]
    tokens = np.concatenate([before, kept, after])
    empty = np.full(tokens.size, IGNORED)
    return Row(tokens, empty, around + 1 if body.size else None, kept.size < body.size)


def paired(first: Array, second: Array, pair: Pair, size: int) -> Row:
    """Two texts as the tokenizer puts them together, the longer one cut first, down to half of the room each."""
    room = max(size - pair.around, 0)
    shorter = min(first.size, second.size)
    if first.size + second.size > room:
        shorter = min(shorter, room // 2)
        longer = room - shorter
    else:
        longer = max(first.size, second.size)
    one, two = (first[:longer], second[:shorter]) if first.size > second.size else (first[:shorter], second[:longer])
    tokens = np.concatenate([pair.before, one, pair.between, two, pair.after]).astype(np.int64)
    types = None
    if pair.types is not None:
        ends = np.cumsum([len(pair.before), 1, len(pair.between)])
        counts = np.ones(len(pair.types), dtype=np.int64)
        counts[ends[0]], counts[ends[2]] = one.size, two.size
        types = np.repeat(np.asarray(pair.types, dtype=np.int64), counts)
    total = first.size + second.size
    empty = np.full(tokens.size, IGNORED)
    return Row(tokens, empty, pair.around + 1 if total else None, one.size + two.size < total, types)


def masked(row: Row, candidates: slice, mask: int, generator: torch.Generator) -> Row:
    """15% of the candidate tokens, one at least, give way to the mask token and become the labels."""
    places = np.arange(row.tokens.size)[candidates]
    count = max(1, round(MASKED_SHARE * places.size))
    chosen = places[torch.randperm(places.size, generator=generator)[:count].numpy()]
    tokens, labels = row.tokens.copy(), np.full(row.tokens.size, IGNORED)
    labels[chosen], tokens[chosen] = tokens[chosen], mask
    return Row(tokens, labels, row.need, row.truncated)


def seq2seq(prompt: Array, answer: Array, tokenizer: Tokenizer, size: int) -> Row:
    """The prompt for the encoder, answer and end token as labels, each cut to the length by itself."""
    if tokenizer.before or tokenizer.after:
        source = framed(prompt, tokenizer, size)
        tokens, longer = source.tokens[:size], source.truncated
    else:
        whole = np.concatenate([prompt, _end(tokenizer)])
        tokens, longer = whole[:size], whole.size > size
    labels = np.concatenate([answer, _end(tokenizer)])
    return Row(tokens, labels[:size], 1 if labels.size else None, longer or labels.size > size)


def _end(tokenizer: Tokenizer) -> Array:
    return np.asarray([] if tokenizer.end is None else [tokenizer.end], dtype=np.int64)


def padded(rows: Iterable[Array], filler: int) -> torch.Tensor:
    """Rows as one int64 tensor, filled on the right to the longest of them."""
    arrays = list(rows)
    table = np.full((len(arrays), max(row.size for row in arrays)), filler, dtype=np.int64)
    for line, row in zip(table, arrays, strict=True):
        line[: row.size] = row
    return torch.from_numpy(table)


def kept(rows: Iterable[Row], size: int) -> Iterator[tuple[int, Row]]:
    """The rows that still have a label at this length, with their numbers counted from 0."""
    return ((number, row) for number, row in enumerate(rows) if row.need is not None and row.need <= size)
