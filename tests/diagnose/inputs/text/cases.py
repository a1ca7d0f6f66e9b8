"""Small tokenizers and models for the tests of text."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from torch import nn

SPECIAL = ("[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]", "[EOS]")
PAD, UNKNOWN, MASK, CLS, SEP, EOS = range(6)
WORDS = tuple(string.ascii_lowercase)
"""Token 6 is "a", 7 is "b" and so on."""
VOCABULARY = len(SPECIAL) + len(WORDS)
NAMES = {"pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]", "cls": "[CLS]", "sep": "[SEP]", "eos": "[EOS]"}


def ids(text: str) -> list[int]:
    """Tokens of single letters, by counting them off."""
    return [len(SPECIAL) + WORDS.index(letter) for letter in text.split()]


def saved(folder: Path, around: tuple[str, str] = ("", ""), names: tuple[str, ...] = tuple(NAMES), **more: Any) -> Path:
    """A tokenizer of single letters in a folder; ``around`` is what it puts before and behind a text, ``pair`` the
    template of two, with which it tells types of tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS, *more.get("words", ())))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]" if "unk" in names else None))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if any(around):
        single = " ".join(filter(None, (around[0], "$A", around[1])))
        tokens = [(word, vocabulary[word]) for word in around if word]
        inner.post_processor = processors.TemplateProcessing(
            single=single, pair=more.get("pair"), special_tokens=tokens
        )
    if "truncate" in more:
        inner.enable_truncation(more["truncate"])
        inner.enable_padding(length=50)
    wrapped: Any = PreTrainedTokenizerFast
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if "pair" in more else [])]
    special = {f"{name}_token": NAMES[name] for name in names}
    wrapped(tokenizer_object=inner, model_max_length=4, model_input_names=inputs, **special).save_pretrained(folder)
    return folder


def gpt2(vocabulary: int = VOCABULARY, positions: int = 64) -> nn.Module:
    size = {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_positions": positions}
    return made("GPT2", "LMHeadModel", vocab_size=vocabulary, **size)


def bert(classes: int | None = None, labels: tuple[str, ...] = (), positions: int = 64) -> nn.Module:
    """For masked tokens, or with ``classes`` a classifier; ``labels`` are its names of them."""
    return made(
        "Bert",
        "ForMaskedLM" if classes is None else "ForSequenceClassification",
        vocab_size=VOCABULARY,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=positions,
        pad_token_id=PAD,
        **({"id2label": dict(enumerate(labels))} if labels else {"num_labels": classes or 2}),
        label2id={label: number for number, label in enumerate(labels)} or None,
    )


def t5() -> nn.Module:
    size = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    return made("T5", "ForConditionalGeneration", vocab_size=VOCABULARY, decoder_start_token_id=PAD, **size)


def made(family: str, head: str, **config: Any) -> nn.Module:
    """A model of transformers with random weights, in evaluation mode."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = getattr(transformers, family + head)(getattr(transformers, family + "Config")(**config))
    return model.eval()
