"""What rows hold besides instruction and answer, text and label: system text, earlier turns, second texts, the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from diagnose.errors import InputError
from diagnose.inputs.data import rows
from diagnose.inputs.data.instructions import prompt
from diagnose.inputs.data.tables import Rows
from diagnose.inputs.existing_model import open_module
from diagnose.inputs.models.loaded import Loaded
from diagnose.inputs.opening import open_task
from diagnose.inputs.text.encoded import encode
from diagnose.inputs.text.tokenizers import Bytes, pretrained
from diagnose.settings import Settings
from estimators import Problem
from tests.diagnose.inputs.text import cases
from tests.diagnose.inputs.text.cases import CLS, SEP, ids

PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
ROW = {"instruction": "Add 3", "output": "6"}
HISTORY = [["Add 1", "2"], ["Add 2", "3"]]


def parsed(*values: dict[str, Any]) -> Rows:
    return rows.parse(json.dumps(values).encode(), "a.json", one_a_line=False)


# -- instructions ----------------------------------------------------------------------------------


def test_a_system_text_stands_in_place_of_the_preamble() -> None:
    row = {**ROW, "system": "Be brief."}
    assert parsed(row).texts == ("Be brief.\n\n### Instruction:\nAdd 3\n\n### Response:\n",)
    assert parsed({**row, "input": "x"}).texts == (
        "Be brief.\n\n### Instruction:\nAdd 3\n\n### Input:\nx\n\n### Response:\n",
    )


def test_earlier_turns_come_first_with_their_answers() -> None:
    found = parsed({**ROW, "history": HISTORY}, ROW, {**ROW, "history": HISTORY[:1], "system": "S", "input": "i"})
    assert found.texts == (
        f"{PREAMBLE}\n\n### Instruction:\nAdd 1\n\n### Response:\n2\n\n### Instruction:\nAdd 2\n\n### Response:\n3\n\n"
        "### Instruction:\nAdd 3\n\n### Response:\n",
        f"{PREAMBLE}\n\n### Instruction:\nAdd 3\n\n### Response:\n",
        "S\n\n### Instruction:\nAdd 1\n\n### Response:\n2\n\n"
        "### Instruction:\nAdd 3\n\n### Input:\ni\n\n### Response:\n",
    )
    assert found.answers == ("6", "6", "6")
    assert found.notes == ("with `system` in 1 and `history` in 2 rows",)


@pytest.mark.parametrize("more", [{"system": None, "history": None}, {"system": "", "history": []}, {"history": ""}])
def test_empty_ones_change_nothing(more: dict[str, Any]) -> None:
    found = parsed({**ROW, **more})
    assert found.texts == (prompt(ROW),)
    assert found.notes == ()


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"system": 3}, '"system" is a number, not text'),
        ({"system": "\ud800"}, '"system" holds half of a surrogate pair'),
        ({"history": "x"}, '"history" is text, not a list of turns'),
        ({"history": ["x", "y"]}, '"history" holds a turn that is no pair of texts'),
        ({"history": [["x", None]]}, '"history" holds a turn that is no pair of texts'),
        ({"history": [["x", "y", "z"]]}, '"history" holds a turn that is no pair of texts'),
        ({"history": [{"user": "x"}]}, '"history" holds a turn that is no pair of texts'),
        ({"history": [["x", "\udfff"]]}, '"history" holds half of a surrogate pair'),
    ],
)
def test_a_system_text_or_a_history_of_another_form(more: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError) as refused:
        parsed(ROW, {**ROW, **more})
    assert what in refused.value.what
    assert refused.value.where == "a.json, row 2"


def test_the_loss_is_that_of_the_last_answer(tmp_path: Path) -> None:
    """f from the model's scores of the bytes of the last answer, written out."""
    file = tmp_path / "a.json"
    file.write_text(json.dumps([{**ROW, "history": HISTORY, "system": "S"}, {**ROW, "output": "no"}]))
    opened, _ = open_task("gpt2-mini", file, Settings(dtype="float64"))
    parts = [
        (b"S\n\n### Instruction:\nAdd 1\n\n### Response:\n2\n\n### Instruction:\nAdd 2\n\n### Response:\n3\n\n"
         b"### Instruction:\nAdd 3\n\n### Response:\n", b"6"),
        (f"{PREAMBLE}\n\n### Instruction:\nAdd 3\n\n### Response:\n".encode(), b"no"),
    ]  # fmt: skip
    expected = []
    for before, answer in parts:
        with torch.no_grad():
            scores = opened.model(torch.tensor([list(before + answer)])).logits[0].log_softmax(-1)
        each = [-scores[len(before) + place - 1, byte] for place, byte in enumerate(answer)]
        expected.append(float(sum(each)) / len(answer))
    assert Problem(opened.model, opened.samples).loss() == pytest.approx(sum(expected) / 2, rel=1e-9)
    assert "2 rows, bytes as tokens, with `system` in 1 and `history` in 1 rows" in opened.understood[1]
    assert "3 labelled" in opened.understood[1]


# -- what is not used ------------------------------------------------------------------------------


def test_keys_whose_text_is_not_used_are_named() -> None:
    context = {"context": "c", "id": 7, "empty": " ", "nothing": None, "messages": [{"role": "user", "content": "x"}]}
    assert parsed({**ROW, **context}, {**ROW, "context": "d"}, {**ROW, "input": "x"}).notes == (
        "not used: `context` (2 rows), `messages` (1 row)",
    )
    assert parsed({"text": "a", "question": "b"}, {"text": "b", "label": "x"}).notes == (
        "not used: `question` (1 row), `label` (1 row)",
    )
    assert parsed({"text": "a", "label": 1, "source": {"url": ["", "u"]}}).notes == ("not used: `source` (1 row)",)
    assert parsed({"text": "a", "text_pair": "b"}).notes == ("not used: `text_pair` (1 row)",)
    many = parsed({**ROW, **{f"key{number}": "x" for number in range(9)}}).notes[0]
    assert many.endswith("`key5` (1 row) and 3 more keys")
    assert "\n" not in parsed({**ROW, "a\nb": "x"}).notes[0]


def test_they_stand_in_the_line_of_the_data(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([{**ROW, "context": "c"}, ROW]))
    opened, _ = open_task("gpt2-mini", file, Settings())
    assert "not used: `context` (1 row)" in opened.understood[1]


# -- two texts -------------------------------------------------------------------------------------

BERT = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
ROBERTA = "[CLS]:0 $A:0 [SEP]:0 [SEP]:0 $B:0 [SEP]:0"
PAIRS = [("a b c", "d"), ("a", "b c d e f g h"), ("a b c d", "e f g h"), ("a b c d e", "f g h i"), ("a", ""), ("", "b")]


def labelled(*pairs: tuple[str, str | None]) -> Rows:
    values = [{"text": one, "text_pair": two, "label": number % 2} for number, (one, two) in enumerate(pairs)]
    return parsed(*values)


def test_a_second_text_follows_the_first(tmp_path: Path) -> None:
    tokenizer = pretrained(cases.saved(tmp_path / "t", ("[CLS]", "[SEP]"), pair=BERT), "m")
    found = encode(labelled(("a b", "c"), ("d", None)), cases.bert(2), "m", tokenizer, Settings())
    assert found.tensors["input_ids"].tolist() == [
        [CLS, *ids("a b"), SEP, *ids("c"), SEP],
        [CLS, *ids("d"), SEP, 0, 0, 0],
    ]
    assert found.tensors["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0] * 6]
    assert found.tensors["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert "1 with `text_pair` as second text" in found.line


@pytest.mark.parametrize("template", [BERT, ROBERTA])
@pytest.mark.parametrize("size", [5, 6, 7, 8, 9, 20])
def test_two_texts_are_put_together_and_cut_as_transformers_does(tmp_path: Path, template: str, size: int) -> None:
    folder = cases.saved(tmp_path / "t", ("[CLS]", "[SEP]"), pair=template)
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    found = encode(labelled(*PAIRS), cases.bert(2), "m", pretrained(folder, "m"), Settings(max_length=size))
    for number, (one, two) in enumerate(PAIRS):
        ours = {name: tensor[number] for name, tensor in found.tensors.items() if name != "labels"}
        length = int(ours["attention_mask"].sum()) if "attention_mask" in ours else ours["input_ids"].numel()
        right = theirs(one, two or None, truncation="longest_first", max_length=size)
        assert ours["input_ids"][:length].tolist() == right["input_ids"]
        assert ours["token_type_ids"][:length].tolist() == right["token_type_ids"]


def test_the_loss_of_two_texts_is_that_of_transformers(tmp_path: Path) -> None:
    model: Any = cases.bert(2).double()
    model.save_pretrained(tmp_path / "m")
    cases.saved(tmp_path / "m", ("[CLS]", "[SEP]"), pair=BERT)
    file = tmp_path / "a.jsonl"
    values = [{"text": one, "text_pair": two, "label": number % 2} for number, (one, two) in enumerate(PAIRS)]
    file.write_text("\n".join(json.dumps(value) for value in values))
    opened, _ = open_task(tmp_path / "m", file, Settings(dtype="float64"))
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "m")
    with torch.no_grad():
        each = [
            float(model(**tokenizer(one, two or None, return_tensors="pt"), labels=torch.tensor([number % 2])).loss)
            for number, (one, two) in enumerate(PAIRS)
        ]
        untyped = [
            float(model(**{**tokenizer(one, two or None, return_tensors="pt"), "token_type_ids": None}).logits.std())
            for one, two in PAIRS
        ]
        typed = [float(model(**tokenizer(one, two or None, return_tensors="pt")).logits.std()) for one, two in PAIRS]
    assert Problem(opened.model, opened.samples).loss() == pytest.approx(np.mean(each), rel=1e-12)
    assert untyped != pytest.approx(typed, rel=1e-6)  # types count, so that they would be missed


def test_types_of_tokens_for_models_that_take_them(tmp_path: Path) -> None:
    tokenizer = pretrained(cases.saved(tmp_path / "t", ("[CLS]", "[SEP]"), pair=BERT), "m")
    one = cases.made(
        "Roberta", "ForSequenceClassification", vocab_size=cases.VOCABULARY, hidden_size=8, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=8, max_position_embeddings=64, type_vocab_size=1, pad_token_id=0,
    )  # fmt: skip
    assert "token_type_ids" not in encode(labelled(("a", "b")), one, "m", tokenizer, Settings()).tensors
    untyped = cases.made(
        "DistilBert", "ForSequenceClassification", vocab_size=cases.VOCABULARY, dim=8, n_layers=1, n_heads=2,
        hidden_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    assert "token_type_ids" not in encode(labelled(("a", "b")), untyped, "m", tokenizer, Settings()).tensors


def test_a_second_text_of_no_use_is_counted() -> None:
    found = encode(labelled(("a b", "c"), ("d e", None)), cases.gpt2(257), "m", Bytes(256), Settings())
    assert "labels not used, `text_pair` of 1 not used" in found.line


def test_types_are_cut_with_the_padding(tmp_path: Path) -> None:
    """A draw of the short rows alone: every tensor of a sequence loses the same columns."""
    model = cases.bert(2)
    model.save_pretrained(tmp_path / "m")  # type: ignore[operator]
    cases.saved(tmp_path / "m", ("[CLS]", "[SEP]"), pair=BERT)
    values = [{"text": "a", "text_pair": "b", "label": k % 2} for k in range(30)]
    values[0]["text"] = " ".join("abcdefghij")
    file = tmp_path / "a.json"
    file.write_text(json.dumps(values))
    drawn = open_module(Loaded(model, "m", "", tmp_path / "m"), file, Settings(samples=4, seed=1))
    assert isinstance(drawn.samples, dict)
    assert {tuple(drawn.samples[name].shape) for name in ("input_ids", "token_type_ids")} == {(4, 5)}
    Problem(model, drawn.samples)


@pytest.mark.parametrize("value", [3, ["x"], {}])
def test_a_second_text_that_is_no_text(value: Any) -> None:
    with pytest.raises(InputError, match='"text_pair" is '):
        parsed({"text": "a", "label": 0, "text_pair": value})
