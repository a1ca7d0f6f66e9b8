"""Text and rows of text as the tensors of a language model or a text classifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from diagnose.errors import InputError
from diagnose.inputs.data.classes import class_numbers
from diagnose.inputs.data.tables import Array, Rows, Text
from diagnose.inputs.models import modules
from diagnose.inputs.text import blocks, cutting
from diagnose.inputs.text.cutting import Row
from diagnose.inputs.text.dropped import Needs
from diagnose.inputs.text.tokenizers import Bytes, Tokenizer
from diagnose.settings import Settings, task_name
from estimators.results import Finding
from estimators.task import model_kinds
from estimators.task.model_kinds import IGNORED, Kind

BYTES_LENGTH = 384
"""Default length of instruction rows read as bytes. Of the Alpaca rows all lose their answer at 128 bytes, 41% at 256,
5% at 384 and 2% at 512, where curvature takes twice as long again."""


@dataclass(frozen=True)
class Encoded:
    """All usable samples of a data set.

    Args:
        tensors: ``input_ids`` and ``labels``, with ``attention_mask`` where rows are padded; int64, one row a
            sample, in file order.
        length: tokens that a sample may have.
        line: how the data was read, in words.
        findings: warnings about the rows.
        costly: instruction rows as bytes, for which fewer samples are taken.
    """

    tensors: dict[str, Tensor]
    length: int
    line: str
    findings: tuple[Finding, ...]
    costly: bool


def encode(
    source: Text | Rows,
    module: nn.Module,
    model: str,
    tokenizer: Tokenizer,
    settings: Settings,
    random: bool = False,
) -> Encoded:
    """Text for the head of the model, cut to ``--max-length`` or the default of its kind.

    Text is cut into blocks. Of rows, causal models get prompt and answer with labels on the answer, masked models
    text with 15% of its tokens masked (drawn from the seed), sequence-to-sequence models prompt and answer apart,
    classifiers text with its class. Prompt and answer are encoded apart, so that no token holds parts of both.

    Args:
        module: a module without a known head is taken for a causal one that has no attention mask; it gets labels
            that are shifted already, the next token at each position.
        model: its name, for messages.
        random: its weights are random, so that it has numbered no classes.

    Raises:
        InputError: data that the head can't use, a length beyond the positions, no row with a label left, a
            token beyond the vocabulary.
    """
    kind = model_kinds.head(module)
    _refuse_unfit(source, kind, tokenizer, model)
    _refuse_loss(settings, kind, module, model)
    positions = modules.positions(module)
    costly = isinstance(source, Rows) and source.kind == "instruction" and isinstance(tokenizer, Bytes)
    size = blocks.length(settings.max_length, positions, model, BYTES_LENGTH if costly else blocks.DEFAULT_LENGTH)
    if isinstance(source, Text):
        tensors, line = _blocks(source, kind, tokenizer, size, settings.seed)
        _refuse_unknown(tensors, np.arange(len(tensors["labels"])), "block", module, model, source.name)
        return Encoded(tensors, size, line, (), costly)
    return _rows(source, kind, module, model, tokenizer, size, positions, settings.seed, costly, random)


def _refuse_unfit(source: Text | Rows, kind: Kind | None, tokenizer: Tokenizer, model: str) -> None:
    held = "plain text" if isinstance(source, Text) else f"{source.kind} rows"
    if kind == "image":
        raise InputError(f"{model} takes images, not text", source.name, "give a `.npz` file of images")
    if kind == "sequence" and held != "labelled rows":
        raise InputError(
            f"{model} is a classifier and takes rows of text and label, not {held}",
            source.name,
            "give rows with `text` and `label`",
        )
    if kind == "seq2seq" and held != "instruction rows":
        raise InputError(
            f"{model} takes prompts with answers, not {held}", source.name, "give rows with `instruction` and `output`"
        )
    if kind == "masked" and tokenizer.mask is None:
        raise InputError(
            f"{model} fills in masked tokens, and there is no mask token",
            tokenizer.form,
            "name a tokenizer that has one with `--tokenizer`",
        )


def _refuse_loss(settings: Settings, kind: Kind | None, module: nn.Module, model: str) -> None:
    """Losses by name other than cross-entropy take one number for each sample, as classifiers of one output give it."""
    if settings.loss not in ("squared", "logistic"):
        return
    outputs = getattr(getattr(model_kinds.transformer(module), "config", None), "num_labels", None)
    if kind != "sequence" or outputs != 1:
        scores = "classes" if kind == "sequence" else "tokens"
        what = f"{model} scores {scores}, which the {settings.loss} loss does not take"
        raise InputError(what, "--loss", "leave it out: it is cross-entropy")


def _blocks(
    source: Text, kind: Kind | None, tokenizer: Tokenizer, size: int, seed: int
) -> tuple[dict[str, Tensor], str]:
    """Consecutive blocks of the stream; labels are the inputs, or the masked tokens of a masked model."""
    stream = source if isinstance(tokenizer, Bytes) else _stream(source, tokenizer)
    cut = blocks.cut(stream, size).astype(np.int64)
    line = ", ".join([f"{_title(source)}: {blocks.note(stream, size)}", tokenizer.form, *source.notes])
    if kind != "masked":
        tokens = torch.from_numpy(cut)
        return _shifted({"input_ids": tokens, "labels": tokens.clone()}, kind), line
    unmasked = (Row(block, block, 1, False) for block in cut)
    rows = list(_masked(unmasked, tokenizer, seed, framed=False))
    return _tensors(rows, filler=0, attention=False), line


def _stream(source: Text, tokenizer: Tokenizer) -> Text:
    """The whole text as one stream of tokens."""
    content = source.tokens.tobytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        hint = "save the file as UTF-8, or use a model of bytes"
        raise InputError("not UTF-8 text", f"{source.name}, line {number}", hint) from None
    return replace(source, tokens=tokenizer.encode([text])[0], unit="tokens")


def _rows(
    source: Rows,
    kind: Kind | None,
    module: nn.Module,
    model: str,
    tokenizer: Tokenizer,
    size: int,
    positions: int | None,
    seed: int,
    costly: bool,
    random: bool,
) -> Encoded:
    part = "answer" if source.kind == "instruction" and kind != "masked" else "text"
    every = list(_cut(source, kind, tokenizer, size))
    needs = Needs([row.need for row in every], size, positions, model, part)
    needs.refuse_none_left(source.name)
    numbers, rows = map(list, zip(*cutting.kept(every, size), strict=True))
    if kind == "masked":
        rows = list(_masked(rows, tokenizer, seed, framed=True))
    tensors = _shifted(_tensors(rows, _filler(module, kind, tokenizer), attention=kind is not None), kind)
    how = ""
    if kind == "sequence":
        _refuse_without_padding(module, model, tokenizer)
        known = modules.classes(module, random=random)
        if _tells_types(module) and any(row.types is not None for row in rows):
            types = [np.zeros_like(row.tokens) if row.types is None else row.types for row in rows]
            tensors["token_type_ids"] = cutting.padded(types, 0)
        labels, how = class_numbers(np.asarray(source.labels), known, model, source.name)
        tensors["labels"] = torch.from_numpy(labels[numbers])
    _refuse_unknown(tensors, np.asarray(numbers), "row", module, model, source.name)
    line = _line(source, kind, tokenizer, size, rows, how, needs)
    return Encoded(tensors, size, line, needs.findings(), costly)


def _cut(source: Rows, kind: Kind | None, tokenizer: Tokenizer, size: int) -> Iterator[Row]:
    """Every row for its kind of model; masks and classes come later, for the rows that are kept."""
    if source.kind == "instruction" and kind != "masked":
        form = cutting.seq2seq if kind == "seq2seq" else cutting.causal
        pairs = zip(tokenizer.encode(source.texts), tokenizer.encode(source.answers), strict=True)
        return (form(prompt, answer, tokenizer, size) for prompt, answer in pairs)
    if kind in ("masked", "sequence"):
        texts = source.texts
        if source.kind == "instruction":
            texts = tuple(prompt + answer for prompt, answer in zip(source.texts, source.answers, strict=True))
        if kind == "sequence" and source.pairs:
            return _paired(source, tokenizer, size)
        return (cutting.framed(body, tokenizer, size) for body in tokenizer.encode(texts))
    return (cutting.causal(text, None, tokenizer, size) for text in tokenizer.encode(source.texts))


def _paired(source: Rows, tokenizer: Tokenizer, size: int) -> Iterator[Row]:
    """Rows of one text or of two."""
    if tokenizer.pair is None:
        hint = "leave `text_pair` out, or name another tokenizer with `--tokenizer`"
        raise InputError("the tokenizer puts two texts together in a way that is not read", tokenizer.form, hint)
    seconds = tokenizer.encode([second or "" for second in source.pairs])
    for first, second, given in zip(tokenizer.encode(source.texts), seconds, source.pairs, strict=True):
        yield cutting.paired(first, second, tokenizer.pair, size) if given else cutting.framed(first, tokenizer, size)


def _masked(rows: Iterator[Row] | list[Row], tokenizer: Tokenizer, seed: int, framed: bool) -> Iterator[Row]:
    """Rows with masked tokens, of which none is one that the tokenizer put around the text."""
    generator = torch.Generator().manual_seed(seed)
    mask = tokenizer.mask
    assert mask is not None  # refused before
    for row in rows:
        inner = slice(len(tokenizer.before), row.tokens.size - len(tokenizer.after)) if framed else slice(None)
        yield cutting.masked(row, inner, mask, generator)


def _tensors(rows: list[Row], filler: int, attention: bool) -> dict[str, Tensor]:
    tensors = {
        "input_ids": cutting.padded([row.tokens for row in rows], filler),
        "labels": cutting.padded([row.labels for row in rows], IGNORED),
    }
    sizes = torch.tensor([row.tokens.size for row in rows])
    width = tensors["input_ids"].shape[1]
    if attention and bool((sizes < width).any()):
        tensors["attention_mask"] = (torch.arange(width) < sizes[:, None]).long()
    return tensors


def _shifted(tensors: dict[str, Tensor], kind: Kind | None) -> dict[str, Tensor]:
    """Each label beside the token before it for a module of no known head: its loss shifts none, as causal ones do."""
    if kind is not None:
        return tensors
    labels = torch.full_like(tensors["labels"], IGNORED)
    labels[:, :-1] = tensors["labels"][:, 1:]
    return {**tensors, "labels": labels}


def _refuse_without_padding(module: nn.Module, model: str, tokenizer: Tokenizer) -> None:
    """Try two rows of one token: a classifier that finds the end of a row by its padding refuses them without one."""
    inner = model_kinds.transformer(module)
    if inner is None or getattr(inner.config, "pad_token_id", None) is not None:
        return
    try:
        with torch.no_grad(), model_kinds.evaluating(module):
            module(input_ids=torch.zeros(2, 1, dtype=torch.long, device=modules.home(module)[1]))
    except Exception as error:  # anything else is told where the samples go through
        if model_kinds.lacks_padding(error):
            hint = f"set `pad_token_id` in its config (config.json): `{tokenizer.pad}` pads with its tokenizer"
            raise InputError("the classifier has no padding token, by which it finds the end", model, hint) from None


def _tells_types(module: nn.Module) -> bool:
    """Whether the model takes two types of tokens."""
    types = getattr(getattr(model_kinds.transformer(module), "config", None), "type_vocab_size", None)
    return model_kinds.has_argument(module, "token_type_ids") and (types is None or types > 1)


def _filler(module: nn.Module, kind: Kind | None, tokenizer: Tokenizer) -> int:
    """The padding token; a classifier finds the end of a row by its own. One that the model lacks becomes 0."""
    own = getattr(getattr(model_kinds.transformer(module), "config", None), "pad_token_id", None)
    pad = own if kind == "sequence" and isinstance(own, int) else tokenizer.pad
    known = modules.vocabulary(module)
    return pad if known is None or 0 <= pad < known else 0


def _refuse_unknown(
    tensors: dict[str, Tensor], numbers: Array, unit: str, module: nn.Module, model: str, name: str
) -> None:
    """Hold tokens, and labels that are tokens, against the vocabulary."""
    known = modules.vocabulary(module)
    for tokens in (tensors["input_ids"], tensors["labels"]):
        if known is None or tokens.dim() < 2 or int(tokens.max()) < known:
            continue
        sample = int((tokens >= known).any(1).nonzero()[0])
        worst = int(tokens[sample].max())
        raise InputError(
            f"token {worst:,}, but the vocabulary of {model} has {known:,}",
            f"{name}, {unit} {int(numbers[sample]) + 1}",
            "use the tokenizer that belongs to the model",
        )


def _title(source: Text | Rows) -> str:
    return source.title or task_name(source.name)


def _line(
    source: Rows, kind: Kind | None, tokenizer: Tokenizer, size: int, rows: list[Row], how: str, needs: Needs
) -> str:
    count = len(source.texts)
    of = f"{count:,} rows" if source.whole is None else f"{count:,} of {source.whole:,} rows"
    read = [f"{_title(source)}: {of}", tokenizer.form, *source.notes]
    pairs = sum(bool(pair) for pair in source.pairs)
    if source.kind == "labelled" and kind != "sequence":
        read.append("labels not used")
        read += [f"`text_pair` of {pairs:,} not used"] if pairs else []
    elif pairs:
        read.append(f"{pairs:,} with `text_pair` as second text")
    tokens = sum(row.tokens.size for row in rows)
    held = [f"cut to {size}: {len(rows):,} usable rows", f"{tokens:,} tokens"]
    if kind == "sequence":
        held.append(how)
    else:
        skip = 0 if kind in ("masked", "seq2seq") else 1  # a causal model predicts no first token
        labelled = sum(int((row.labels[skip:] != IGNORED).sum()) for row in rows)
        held.append(f"{labelled:,} {'masked' if kind == 'masked' else 'labelled'}")
    truncated = sum(row.truncated for row in rows)
    held += [f"{truncated:,} truncated"] if truncated else []
    return ", ".join([*read, *held, *filter(None, [needs.words()])])
