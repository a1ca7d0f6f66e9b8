"""Text and rows as samples of each kind of language model, and the line that says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from diagnose.errors import InputError
from diagnose.inputs.data import catalogue
from diagnose.inputs.data.tables import Rows, Text
from diagnose.inputs.text.encoded import Encoded, encode
from diagnose.inputs.text.tokenizers import Bytes, Pretrained, pretrained
from diagnose.settings import Settings
from estimators import Problem
from tests.diagnose.inputs.text import cases
from tests.diagnose.inputs.text.cases import CLS, EOS, MASK, PAD, SEP, ids

N = -100
Make = Callable[..., Pretrained]


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """Tokenizers of single letters."""

    def make(before: str = "", after: str = "", **more: Any) -> Pretrained:
        folder = tmp_path / f"letters{len(list(tmp_path.iterdir()))}"
        return pretrained(cases.saved(folder, (before, after), **more), "m")

    return make


def instructions(*pairs: tuple[str, str]) -> Rows:
    return Rows("t.json", "instruction", tuple(p for p, _ in pairs), tuple(a for _, a in pairs))


def texts(*values: str) -> Rows:
    return Rows("t.json", "text", values)


def labelled(*pairs: tuple[str, int | str]) -> Rows:
    return Rows("t.json", "labelled", tuple(t for t, _ in pairs), labels=tuple(label for _, label in pairs))


def listed(encoded: Encoded) -> dict[str, Any]:
    assert all(tensor.dtype == torch.int64 for tensor in encoded.tensors.values())
    return {name: tensor.tolist() for name, tensor in encoded.tensors.items()}


def refused(source: Text | Rows, module: nn.Module, tokenizer: Any, **settings: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        encode(source, module, "m", tokenizer, Settings(**settings))
    assert "\n" not in f"{caught.value}{caught.value.hint}"
    return caught.value


# -- causal ----------------------------------------------------------------------------------------


def test_a_causal_model_learns_the_answer_and_its_end(made: Make) -> None:
    found = encode(instructions(("a b", "c"), ("d", "e f g")), cases.gpt2(), "m", made(), Settings(max_length=8))
    assert listed(found) == {
        "input_ids": [[*ids("a b c"), EOS, PAD], [*ids("d e f g"), EOS]],
        "labels": [[N, N, *ids("c"), EOS, N], [N, *ids("e f g"), EOS]],
        "attention_mask": [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
    }
    assert found.length == 8
    assert not found.costly
    assert found.findings == ()
    assert found.line.endswith("cut to 8: 2 usable rows, 9 tokens, 6 labelled")


def test_rows_of_one_length_have_no_mask(made: Make) -> None:
    found = encode(instructions(("a b", "c"), ("d", "e f")), cases.gpt2(), "m", made(), Settings())
    assert set(found.tensors) == {"input_ids", "labels"}


def test_what_the_tokenizer_puts_in_front_stays_in_front(made: Make) -> None:
    found = encode(instructions(("a", "b")), cases.gpt2(), "m", made("[CLS]", "[SEP]"), Settings())
    assert listed(found) == {"input_ids": [[CLS, *ids("a b"), EOS]], "labels": [[N, N, *ids("b"), EOS]]}


def test_rows_without_a_label_left_are_dropped_and_counted(made: Make) -> None:
    source = instructions(("a b c d", "e"), ("a b", "c d e"), ("a b c", "d"))
    found = encode(source, cases.gpt2(), "m", made(), Settings(max_length=4))
    assert listed(found) == {
        "input_ids": [ids("a b c d"), ids("a b c d")],
        "labels": [[N, N, *ids("c d")], [N, N, N, *ids("d")]],
    }
    assert found.line == (
        "t.json: 3 rows, tokens of letters0, cut to 4: 2 usable rows, 8 tokens, 3 labelled, 2 truncated, "
        "1 dropped (answer beyond the cut)"
    )
    (finding,) = found.findings
    assert (finding.code, finding.severity) == ("rows-dropped", "warning")
    assert finding.found == "1 of 3 rows dropped: no answer within the first 4 tokens"
    assert finding.action == "use `--max-length 5`, which keeps nine rows in ten"


def test_an_empty_answer_leaves_its_end_or_nothing(made: Make) -> None:
    source = instructions(("a", ""), ("b", "c"))
    assert encode(source, cases.gpt2(), "m", made(), Settings()).tensors["labels"].tolist() == [
        [N, EOS, N],
        [N, *ids("c"), EOS],
    ]
    found = encode(source, cases.gpt2(), "m", made(names=("unk",)), Settings())
    assert found.tensors["labels"].tolist() == [[N, *ids("c")]]
    assert "1 dropped (nothing to predict)" in found.line
    assert found.findings[0].found == "1 of 2 rows dropped: nothing to predict"
    assert found.findings[0].action == "fill in the rows that are empty"


def test_text_rows_are_labelled_throughout(made: Make) -> None:
    found = encode(texts("a b c", "d", "e f"), cases.gpt2(), "m", made(), Settings(max_length=2))
    assert listed(found) == {"input_ids": [ids("a b"), ids("e f")], "labels": [ids("a b"), ids("e f")]}
    assert "2 labelled" in found.line  # the first token of a row is predicted from nothing
    assert "1 dropped (nothing to predict)" in found.line


def test_labels_of_rows_are_of_no_use_to_a_language_model(made: Make) -> None:
    found = encode(labelled(("a b", "x")), cases.gpt2(), "m", made(), Settings())
    assert found.tensors["input_ids"].tolist() == [ids("a b")]
    assert "labels not used" in found.line


def test_a_plain_module_gets_no_mask(made: Make) -> None:
    found = encode(instructions(("a b", "c"), ("d", "e")), nn.Embedding(9, 9), "m", Bytes(), Settings())
    assert set(found.tensors) == {"input_ids", "labels"}
    assert found.tensors["labels"].tolist() == [[N, N, 99, N], [101, N, N, N]]  # beside the token before


def test_bytes_of_instructions_are_costly_and_longer() -> None:
    module = cases.gpt2(257, positions=512)
    source = instructions(("é" * 150, "x" * 200), ("a", "b"))
    found = encode(source, module, "m", Bytes(256), Settings())
    assert (found.length, found.costly) == (384, True)
    assert found.tensors["input_ids"].shape == (2, 384)
    assert found.tensors["input_ids"][1].tolist() == [97, 98] + [256] * 382
    assert encode(source, cases.gpt2(257, positions=200), "m", Bytes(256), Settings()).length == 200
    assert encode(texts("a" * 300), module, "m", Bytes(256), Settings()).length == 128
    assert not encode(texts("a" * 300), module, "m", Bytes(256), Settings()).costly


def test_the_default_length_and_the_positions(made: Make) -> None:
    source = instructions(("a", "b " * 300))
    assert encode(source, cases.gpt2(positions=512), "m", made(), Settings()).length == 128
    assert encode(source, cases.gpt2(positions=64), "m", made(), Settings()).length == 64
    found = refused(source, cases.gpt2(positions=64), made(), max_length=65)
    assert (found.where, found.hint) == ("--max-length", "use at most 64")


@given(
    st.lists(st.tuples(st.text("ab", max_size=12), st.text("cd", max_size=12)), min_size=1, max_size=12),
    st.integers(2, 12),
)
def test_labels_are_the_bytes_of_the_answer_within_the_cut(pairs: list[tuple[str, str]], size: int) -> None:
    module = nn.Identity()
    kept = [(p, a) for p, a in pairs if (p + a)[: max(size, 1)][max(len(p), 1) :]]
    if not kept:
        refused(instructions(*pairs), module, Bytes(), max_length=size)
        return
    found = encode(instructions(*pairs), module, "m", Bytes(), Settings(max_length=size))
    for (prompt, answer), tokens, labels in zip(kept, found.tensors["input_ids"], found.tensors["labels"], strict=True):
        whole = (prompt + answer).encode()[:size]
        assert bytes(tokens[: len(whole)].tolist()) == whole
        assert bytes(labels[labels != N].tolist()) == whole[max(len(prompt), 1) :]
    assert found.tensors["input_ids"].shape[1] == max(min(len(p + a), size) for p, a in kept)


# -- lengths that leave nothing --------------------------------------------------------------------


def test_no_row_left_names_the_length_that_would_do(made: Make) -> None:
    source = instructions(*(("a " * count, "b") for count in range(10, 20)))
    found = refused(source, cases.gpt2(positions=64), made(), max_length=5)
    assert found.what == "no row is left: the answer of each lies beyond the first 5 tokens"
    assert found.hint == "use `--max-length 19`, which keeps nine rows in ten"
    assert encode(source, cases.gpt2(), "m", made(), Settings(max_length=19)).tensors["labels"].shape[0] == 9
    found = refused(source, cases.gpt2(positions=14), made(), max_length=5)
    assert found.hint == "use `--max-length 14`, the most that m has, which keeps 4 rows"
    assert encode(source, cases.gpt2(positions=14), "m", made(), Settings()).tensors["labels"].shape[0] == 4
    found = refused(source, cases.gpt2(positions=8), made())
    assert found.hint.startswith("the shortest row needs 11 positions, m has 8: use a model with more")


def test_no_row_with_anything_to_predict() -> None:
    found = refused(instructions(("a", ""), ("b", "")), cases.gpt2(257), Bytes(256))
    assert found.what == "no row has anything to predict"


def test_few_dropped_rows_are_a_note(made: Make) -> None:
    def finding(short: int, long: int, positions: int = 64) -> tuple[str, str]:
        source = instructions(*[("a", "b")] * short, *[("a " * 9, "b")] * long)
        (one,) = encode(source, cases.gpt2(positions=positions), "m", made(), Settings(max_length=4)).findings
        return one.severity, one.action

    assert finding(96, 4) == ("note", "nothing to do")
    assert finding(90, 10) == ("note", "nothing to do")
    assert finding(89, 11) == ("warning", "use `--max-length 10`, which keeps nine rows in ten")
    assert finding(8, 2) == ("warning", "use `--max-length 10`, which keeps nine rows in ten")
    severity, action = finding(8, 2, positions=4)
    assert severity == "warning"
    assert action.startswith("nine rows in ten need 10 positions, m has 4: use a model with more")


# -- masked ----------------------------------------------------------------------------------------


def check_masked(tokens: Tensor, labels: Tensor, whole: list[int], around: tuple[int, int] = (0, 0)) -> int:
    """Masked tokens carry their own number as label, the others none; returns how many there are."""
    tokens, labels = tokens[: len(whole)], labels[: len(whole)]
    chosen = labels != N
    assert bool((tokens[chosen] == MASK).all())
    assert torch.where(chosen, labels, tokens).tolist() == whole
    assert not bool(chosen[: around[0]].any())
    assert not bool(chosen[len(whole) - around[1] :].any())
    return int(chosen.sum())


def test_a_masked_model_fills_in_some_tokens_of_the_text(made: Make) -> None:
    tokenizer = made("[CLS]", "[SEP]")
    long = " ".join(cases.WORDS[:20])
    source = texts(long, "a", "", "b c")
    found = encode(source, cases.bert(), "m", tokenizer, Settings(max_length=12))
    tokens, labels = found.tensors["input_ids"], found.tensors["labels"]
    wholes = [[CLS, *ids(long)[:10], SEP], [CLS, *ids("a"), SEP], [CLS, *ids("b c"), SEP]]
    counts = [check_masked(t, la, w, (1, 1)) for t, la, w in zip(tokens, labels, wholes, strict=True)]
    assert counts == [2, 1, 1]  # round(0.15 * 10), and one at least
    assert found.tensors["attention_mask"].sum(1).tolist() == [12, 3, 4]
    assert "3 usable rows, 19 tokens, 4 masked, 1 truncated, 1 dropped (nothing to predict)" in found.line


def test_masks_follow_the_seed(made: Make) -> None:
    source, tokenizer = texts(*[" ".join(cases.WORDS)] * 4), made()

    def labels(seed: int) -> list[list[int]]:
        torch.rand(1)  # the global random state plays no part
        found: list[list[int]] = (
            encode(source, cases.bert(), "m", tokenizer, Settings(seed=seed)).tensors["labels"].tolist()
        )
        return found

    assert labels(0) == labels(0)
    assert labels(0) != labels(1)
    assert len({tuple(row) for row in labels(0)}) > 1


def test_a_masked_model_reads_instructions_as_text(made: Make) -> None:
    source, tokenizer = instructions(("a b ", "c d")), made("[CLS]", "[SEP]")
    found = encode(source, cases.bert(), "m", tokenizer, Settings())
    whole = [CLS, *ids("a b c d"), SEP]
    assert check_masked(found.tensors["input_ids"][0], found.tensors["labels"][0], whole, (1, 1)) == 1


def test_a_masked_model_reads_blocks(made: Make) -> None:
    text = Text("t.txt", np.frombuffer(" ".join(cases.WORDS).encode(), dtype=np.uint8))
    found = encode(text, cases.bert(), "m", made("[CLS]", "[SEP]"), Settings(max_length=10))
    assert set(found.tensors) == {"input_ids", "labels"}
    for row, start in enumerate((0, 10)):
        whole = ids(" ".join(cases.WORDS[start : start + 10]))
        assert check_masked(found.tensors["input_ids"][row], found.tensors["labels"][row], whole) == 2


def test_a_masked_model_without_a_mask_token(made: Make) -> None:
    for tokenizer in (Bytes(), made(names=("unk",))):
        assert "no mask token" in refused(texts("a"), cases.bert(), tokenizer).what


def test_a_length_with_no_room_between_the_special_tokens(made: Make) -> None:
    found = refused(texts("a b"), cases.bert(), made("[CLS]", "[SEP]"), max_length=2)
    assert found.hint == "use `--max-length 3`, which keeps nine rows in ten"


# -- sequence to sequence --------------------------------------------------------------------------


def test_prompt_and_answer_apart(made: Make) -> None:
    source = instructions(("a b c d", "e"), ("f", "g h i j"))
    found = encode(source, cases.t5(), "m", made("", "[EOS]"), Settings(max_length=4))
    assert listed(found) == {
        "input_ids": [[*ids("a b c"), EOS], [*ids("f"), EOS, PAD, PAD]],
        "labels": [[*ids("e"), EOS, N, N], ids("g h i j")],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]],
    }
    assert "2 truncated" in found.line
    assert "6 tokens, 6 labelled" in found.line


def test_prompts_end_with_the_end_token_where_nothing_stands_around_them(made: Make) -> None:
    found = encode(instructions(("a", "b c")), cases.t5(), "m", made(), Settings())
    assert listed(found) == {"input_ids": [[*ids("a"), EOS]], "labels": [[*ids("b c"), EOS]]}


def test_an_empty_answer_without_an_end_token_is_dropped(made: Make) -> None:
    source = instructions(("a", ""), ("b", "c"))
    found = encode(source, cases.t5(), "m", made(names=("unk",)), Settings())
    assert listed(found) == {"input_ids": [ids("b")], "labels": [ids("c")]}
    assert "1 dropped (nothing to predict)" in found.line


def test_only_instructions_have_two_sides(made: Make) -> None:
    text = Text("t.txt", np.frombuffer(b"a b c", dtype=np.uint8))
    for source, word in ((texts("a"), "text rows"), (labelled(("a", 1)), "labelled rows"), (text, "plain text")):
        assert refused(source, cases.t5(), made()).what == f"m takes prompts with answers, not {word}"


# -- classifiers -----------------------------------------------------------------------------------


def test_classes_and_the_tokens_around_a_text(made: Make) -> None:
    source = labelled(("", 0), ("a b c", 1), ("d", 0))
    found = encode(source, cases.bert(2), "m", made("[CLS]", "[SEP]"), Settings(max_length=4))
    assert listed(found) == {
        "input_ids": [[CLS, *ids("a b"), SEP], [CLS, *ids("d"), SEP, PAD]],
        "labels": [1, 0],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 1, 0]],
    }
    assert "7 tokens, 2 classes, numbered as in the file, 1 truncated, 1 dropped" in found.line


@pytest.mark.parametrize(
    ("labels", "names", "expected", "how"),
    [
        (("bad", "good", "bad"), ("good", "bad"), [1, 0, 1], "numbered by the model's names"),
        (("1", "0", "1"), ("0", "1"), [1, 0, 1], "numbered by the model's names"),
        ((1, 0, 1), ("good", "bad"), [1, 0, 1], "numbered as in the file"),
        (("1", "0", "1"), (), [1, 0, 1], "numbered as in the file"),
        ((2, 1, 2), (), [1, 0, 1], "numbered from 1 in the file"),
    ],
)
def test_class_numbers(
    made: Make, labels: tuple[int | str, ...], names: tuple[str, ...], expected: list[int], how: str
) -> None:
    source = labelled(*(("a", label) for label in labels))
    found = encode(source, cases.bert(2, names), "m", made(), Settings())
    assert found.tensors["labels"].tolist() == expected
    assert how in found.line


def test_names_that_a_classifier_does_not_know(made: Make) -> None:
    found = refused(labelled(("a", "negative"), ("b", "positive")), cases.bert(2, ("good", "bad")), made())
    assert found.what == "labels negative, positive, m knows good, bad"
    found = refused(labelled(("a", "negative"), ("b", "positive")), cases.bert(2), made())
    assert found.what == "labels negative, positive, m knows LABEL_0, LABEL_1"
    found = refused(labelled(("a", 7), ("b", -2)), cases.bert(2), made())
    assert found.what == "labels -2, 7, m has the outputs 0 to 1"


def test_numbers_that_name_classes(made: Make) -> None:
    source = labelled(("a", 7), ("b", 3))
    found = encode(source, cases.bert(2, ("7", "3")), "m", made(), Settings())
    assert found.tensors["labels"].tolist() == [0, 1]


def test_a_classifier_pads_with_its_own_token(made: Make) -> None:
    module = cases.bert(2)
    module.config.pad_token_id = 5  # type: ignore[union-attr]
    found = encode(labelled(("a b", 0), ("a", 1)), module, "m", made(), Settings())
    assert found.tensors["input_ids"].tolist() == [ids("a b"), [*ids("a"), 5]]


def test_what_a_classifier_refuses(made: Make) -> None:
    text = Text("t.txt", np.frombuffer(b"a b c", dtype=np.uint8))
    for source, word in ((texts("a"), "text rows"), (instructions(("a", "b")), "instruction rows"), (text, "plain")):
        found = refused(source, cases.bert(2), made())
        assert f"takes rows of text and label, not {word}" in found.what
    three = labelled(("a", 0), ("b", 1), ("c", 2))
    assert refused(three, cases.bert(2), made()).what == "3 classes, m has 2"
    assert refused(three, cases.bert(1), made()).what == "m has one output"


# -- text as one stream ----------------------------------------------------------------------------


def test_text_with_a_tokenizer_is_one_stream(made: Make) -> None:
    content = "\ufeffa b\nc d e f g".encode()
    text = Text("t.txt", np.frombuffer(content, dtype=np.uint8), title="mine (t.txt)")
    found = encode(text, cases.gpt2(), "m", made("[CLS]", "[SEP]"), Settings(max_length=3))
    blocks = [ids("a b c"), ids("d e f")]
    assert listed(found) == {"input_ids": blocks, "labels": blocks}
    assert found.line == ("mine (t.txt): 7 tokens in 2 blocks of 3, the last token dropped, tokens of letters0")


def test_text_as_bytes_is_unchanged() -> None:
    content = b"\xff\x00\r\nabcd"
    text = Text("t.txt", np.frombuffer(content, dtype=np.uint8))
    found = encode(text, cases.gpt2(256), "m", Bytes(), Settings(max_length=4))
    assert found.tensors["input_ids"].tolist() == [[255, 0, 13, 10], [97, 98, 99, 100]]
    assert found.line == "t.txt: 8 bytes in 2 blocks of 4, bytes as tokens"
    assert not found.costly


def test_text_that_is_not_utf8_names_its_line(made: Make) -> None:
    text = Text("t.txt", np.frombuffer(b"a\nb \xff", dtype=np.uint8))
    found = refused(text, cases.gpt2(), made())
    assert (found.what, found.where) == ("not UTF-8 text", "t.txt, line 2")
    short = Text("t.txt", np.frombuffer(b"a b", dtype=np.uint8))
    assert refused(short, cases.gpt2(), made(), max_length=5).what == "2 tokens are shorter than one block of 5"


# -- the vocabulary --------------------------------------------------------------------------------


def test_a_token_beyond_the_vocabulary_names_its_row(made: Make) -> None:
    source = instructions(("", ""), ("a b c d e", "f"), ("a", "b"), ("a", "z"))
    module = cases.gpt2(vocabulary=10)
    found = refused(source, module, made(names=("unk",)), max_length=3)
    assert (found.what, found.where) == ("token 31, but the vocabulary of m has 10", "t.json, row 4")
    fitting = instructions(("a", "b"), ("c d z", "e"))
    assert encode(fitting, module, "m", made(names=("unk",)), Settings(max_length=2)).tensors["labels"].shape == (1, 2)
    text = Text("t.txt", np.frombuffer(b"a b c e", dtype=np.uint8))
    assert refused(text, module, made(), max_length=2).where == "t.txt, block 2"


def test_an_answer_beyond_the_vocabulary(made: Make) -> None:
    module = cases.t5()
    module.resize_token_embeddings(10)  # type: ignore[operator]
    assert refused(instructions(("a", "b"), ("a", "z")), module, made()).where == "t.json, row 2"


def test_a_padding_token_that_the_model_lacks_becomes_another(made: Make) -> None:
    tokenizer = Pretrained("tokens", 99, None, None, (), (), made().tokenizer)
    found = encode(instructions(("a", "b c"), ("a", "b")), cases.gpt2(), "m", tokenizer, Settings())
    assert found.tensors["input_ids"].tolist() == [ids("a b c"), [*ids("a b"), 0]]


def test_a_model_of_images_takes_no_text(made: Make) -> None:
    class ViTForImageClassification(nn.Module):
        config = None

    assert refused(texts("a"), ViTForImageClassification(), made()).what == "m takes images, not text"


# -- as a problem ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["causal", "masked", "seq2seq", "sequence"])
def test_the_loss_is_that_of_the_model_row_by_row(made: Make, kind: str) -> None:
    pairs = (("a b c", "d e"), ("f", "g"), ("h i", "j k l m"))
    sources = {
        "causal": (instructions(*pairs), cases.gpt2(), made()),
        "masked": (texts(*(p for p, _ in pairs)), cases.bert(), made("[CLS]", "[SEP]")),
        "seq2seq": (instructions(*pairs), cases.t5(), made("", "[EOS]")),
        "sequence": (labelled(*((p, n % 2) for n, (p, _) in enumerate(pairs))), cases.bert(2), made("[CLS]", "[SEP]")),
    }
    source, module, tokenizer = sources[kind]
    tensors = encode(source, module, "m", tokenizer, Settings()).tensors
    each = []
    for row in range(3):
        length = int(tensors["attention_mask"][row].sum())
        one = {name: tensor[row : row + 1] for name, tensor in tensors.items()}
        one["input_ids"], one["attention_mask"] = one["input_ids"][:, :length], one["attention_mask"][:, :length]
        if kind in ("causal", "masked"):
            one["labels"] = one["labels"][:, :length]
        with torch.no_grad():
            each.append(float(module(**one).loss))
    assert Problem(module, tensors).loss() == pytest.approx(sum(each) / 3, rel=1e-5)


# -- alpaca ----------------------------------------------------------------------------------------


@pytest.fixture
def alpaca(data_folder: Path) -> Rows:
    found = catalogue.load(data_folder / "alpaca_1k.json")
    assert isinstance(found, Rows)
    return found


def test_alpaca_as_bytes(alpaca: Rows) -> None:
    module = cases.gpt2(257, positions=512)
    assert "`--max-length" in refused(alpaca, module, Bytes(256), max_length=128).hint
    for length, dropped in ((None, 52), (256, 412), (512, 17)):
        found = encode(alpaca, module, "m", Bytes(256), Settings(max_length=length))
        assert found.tensors["labels"].shape[0] == 999 - dropped
        assert f"{dropped} dropped (answer beyond the cut)" in found.line
        assert bool((found.tensors["labels"][:, 1:] != N).any(1).all())


def test_alpaca_as_tokens_of_gpt2(alpaca: Rows, data_folder: Path) -> None:
    module, tokenizer = cases.gpt2(50257, positions=128), pretrained(data_folder / "gpt2_tokenizer", "m")
    for length, dropped in ((64, 282), (128, 9)):
        found = encode(alpaca, module, "m", tokenizer, Settings(max_length=length))
        assert found.tensors["labels"].shape[0] == 999 - dropped


def test_no_text_of_the_data_is_said(made: Make, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps([{"text": "secret a", "label": "hidden"}, {"text": "", "label": "x"}]))
    source = catalogue.load(tmp_path / "t.json")
    assert isinstance(source, Rows)
    for module in (cases.bert(2, ("x", "hidden")), cases.gpt2()):
        found = encode(source, module, "m", made(), Settings())
        assert not {"secret", "hidden"} & set(f"{found.line} {found.findings}".replace("'", " ").split())
    for settings in ({"max_length": 2}, {}):
        said = refused(source, cases.bert(1) if not settings else cases.bert(), made("[CLS]", "[SEP]"), **settings)
        assert "secret" not in f"{said} {said.hint}"
        assert "hidden" not in f"{said} {said.hint}"


# -- losses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_scores_of_tokens_and_classes_have_one_loss(made: Make, loss: Any) -> None:
    for module in (cases.gpt2(), cases.bert(), nn.Embedding(9, 9)):
        found = refused(texts("a b"), module, made(), loss=loss)
        assert (found.where, found.hint) == ("--loss", "leave it out: it is cross-entropy")
    assert "scores classes" in refused(labelled(("a", 0), ("b", 1)), cases.bert(2), made(), loss=loss).what
    encode(texts("a b"), cases.gpt2(), "m", made(), Settings(loss="cross-entropy"))
