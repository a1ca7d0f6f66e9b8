"""Text to token numbers: bytes, or a tokenizer of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from diagnose.errors import InputError
from diagnose.inputs.data.tables import Array
from diagnose.inputs.models import modules, reading
from diagnose.inputs.models.architectures import TRUST, silent
from diagnose.settings import Settings, printable

BYTES = 256
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""A folder with one of these holds a tokenizer."""
PROBES = 5
"""Words of its vocabulary that are tried to see what a tokenizer puts around a text."""
NAME_IT = "name the folder of its tokenizer with `--tokenizer`"


@dataclass(frozen=True)
class Pair:
    """What a tokenizer puts around two texts and between them.

    Args:
        types: the type of each token before, of the first text, of each between, of the second text and of each
            after; None where it tells none.
    """

    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    types: tuple[int, ...] | None = None

    @property
    def around(self) -> int:
        """How many tokens that are."""
        return len(self.before) + len(self.between) + len(self.after)


class Tokenizer(Protocol):
    """What encoding needs of a tokenizer; special tokens are None where it has none."""

    @property
    def form(self) -> str:
        """In words: "bytes as tokens", "tokens of gpt2_tokenizer"."""

    @property
    def pad(self) -> int:
        """What fills short rows; they are masked and carry no label."""

    @property
    def end(self) -> int | None:
        """Ends an answer."""

    @property
    def mask(self) -> int | None:
        """Stands for a masked token."""

    @property
    def before(self) -> tuple[int, ...]:
        """What it puts in front of a text by itself, such as [CLS] or the start of a sequence."""

    @property
    def after(self) -> tuple[int, ...]:
        """What it puts behind a text by itself, such as [SEP]."""

    @property
    def pair(self) -> Pair | None:
        """How it puts two texts together; None where that could not be read."""

    def encode(self, texts: Sequence[str]) -> list[Array]:
        """Token numbers of each text, without what it puts around them."""


@dataclass(frozen=True)
class Bytes:
    """Every byte of the UTF-8 text is a token; nothing stands around it."""

    pad: int = 0
    form: str = "bytes as tokens"
    end: int | None = None
    mask: int | None = None
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    pair: Pair | None = Pair()

    def encode(self, texts: Sequence[str]) -> list[Array]:
        return [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]


@dataclass(frozen=True)
class Pretrained:
    """A tokenizer of transformers, read from a folder (:func:`pretrained`)."""

    form: str
    pad: int
    end: int | None
    mask: int | None
    before: tuple[int, ...]
    after: tuple[int, ...]
    tokenizer: Any
    pair: Pair | None = None

    def encode(self, texts: Sequence[str]) -> list[Array]:
        """Raises InputError where a text holds what the tokenizer has no token for, not even an unknown one."""
        try:
            return [np.asarray(ids, dtype=np.int64) for ids in _plain(self.tokenizer, texts)]
        except Exception as error:  # the Rust side raises nothing more precise; its words may quote the text
            raise InputError(
                "the tokenizer cannot encode this text",
                self.form,
                "use one with a token for unknown words, or one made for this model",
            ) from error


def choose(module: nn.Module, folder: Path | None, settings: Settings, model: str) -> Tokenizer:
    """The tokenizer asked for, else that of the model's folder, else bytes where the vocabulary is that of bytes.

    A module that does not say its vocabulary (no embedding by transformers' rules, no config) takes bytes.

    Args:
        folder: of the model, None where it has none.
        settings: ``tokenizer``, a folder, and ``trust_remote_code`` apply.
        model: its name, for messages.

    Raises:
        InputError: a folder without a tokenizer or with a broken one; none at all for a larger vocabulary.
    """
    if settings.tokenizer is not None:
        return pretrained(Path(settings.tokenizer), "--tokenizer", settings.trust_remote_code)
    if folder is not None and any((folder / name).is_file() for name in FILES):
        return pretrained(folder, model, settings.trust_remote_code)
    known = modules.vocabulary(module)
    if known is None or known == BYTES:
        return Bytes()
    if known == BYTES + 1:
        return Bytes(pad=BYTES)
    raise InputError(
        f"no tokenizer for {model}", f"its vocabulary has {known:,} tokens, bytes need 256 or 257", NAME_IT
    )


def pretrained(folder: Path, place: str, trusted: bool = False) -> Pretrained:
    """The tokenizer of a folder, from its files alone.

    Args:
        place: who named the folder, for messages.
        trusted: run the code that the folder brings along.

    Raises:
        InputError: no folder, no tokenizer in it, or one that cannot be read.
    """
    shown = printable(folder)
    if not folder.is_dir():
        raise InputError("no such folder", f"{place} {shown}", "name the folder that holds `tokenizer.json`")
    reading.check_folder(folder, shown)
    if not any((folder / name).is_file() for name in FILES):
        raise InputError("no tokenizer in this folder", shown, "name the folder that holds `tokenizer.json`")
    try:
        with silent():
            tokenizer = _read(folder, trusted)
            words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    except (Exception, SystemExit) as error:  # whatever its files make the library raise says that they are damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in reason and not trusted:
            raise InputError("the tokenizer is Python code in the folder", shown, TRUST) from None
        raise InputError(
            "the tokenizer cannot be read", f"{shown}: {printable(reason)[:160]}", "save it again, or use another"
        ) from error
    if not words:
        raise InputError("the tokenizer holds no tokens but special ones", shown, "save it again, or use another")
    with silent():
        before, after = _frame(tokenizer, words)
        pair = _pair(tokenizer, words)
        end = _first(tokenizer.eos_token_id, tokenizer.sep_token_id)
        return Pretrained(
            form=f"tokens of {printable(folder.resolve().name)}",
            pad=_first(tokenizer.pad_token_id, tokenizer.eos_token_id) or 0,
            end=end,
            mask=tokenizer.mask_token_id,
            before=before,
            after=after,
            tokenizer=tokenizer,
            pair=pair,
        )


def _read(folder: Path, trusted: bool) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    plain: Any = PreTrainedTokenizerFast
    alone = folder / "tokenizer.json"
    if alone.is_file() and not any((folder / name).is_file() for name in ("tokenizer_config.json", "config.json")):
        return plain(tokenizer_file=str(alone))
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)


def _plain(tokenizer: Any, texts: Sequence[str], special: bool = False) -> list[list[int]]:
    if not texts:
        return []
    with silent():
        encoded = tokenizer(
            list(texts),
            add_special_tokens=special,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _frame(tokenizer: Any, words: set[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts in front of a text and behind it, read off words that it has tokens for."""
    for probe in _probes(words):
        try:
            (inner,), (whole,) = _plain(tokenizer, [probe]), _plain(tokenizer, [probe], special=True)
        except Exception:  # a word that its own rules split into parts without a token
            continue
        for start in range(len(whole) - len(inner) + 1):
            if inner and whole[start : start + len(inner)] == inner:
                return tuple(whole[:start]), tuple(whole[start + len(inner) :])
    return (), ()


def _pair(tokenizer: Any, words: set[str]) -> Pair | None:
    """What the tokenizer puts around two texts and between them, read off one word given twice."""
    for probe in _probes(words):
        try:
            (inner,) = _plain(tokenizer, [probe])
            both = tokenizer(probe, probe, return_attention_mask=False)
        except Exception:  # a word that its own rules split into parts without a token
            continue
        whole, size = both["input_ids"], len(inner)
        at = [start for start in range(len(whole) - size + 1) if inner and whole[start : start + size] == inner]
        if len(at) < 2 or at[0] + size > at[-1]:
            continue
        (first, second), types = (at[0], at[-1]), both.get("token_type_ids")
        if types is not None:  # those within a text are all the same
            types = (*types[: first + 1], *types[first + size : second + 1], *types[second + size :])
        return Pair(tuple(whole[:first]), tuple(whole[first + size : second]), tuple(whole[second + size :]), types)
    return None


def _probes(words: set[str]) -> list[str]:
    """Words to try, those of letters alone first."""
    return sorted(words, key=lambda word: (not word.isalpha(), word))[:PROBES]


def _first(*numbers: int | None) -> int | None:
    return next((number for number in numbers if number is not None), None)
