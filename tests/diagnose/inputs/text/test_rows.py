"""Rows of text from JSON files: kinds, forms of a file, and what is wrong with one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnose.errors import InputError
from diagnose.inputs.data import catalogue, rows
from diagnose.inputs.data.instructions import prompt
from diagnose.inputs.data.tables import Rows

TWO = [{"instruction": "Add", "input": "1 and 2", "output": "3"}, {"instruction": "Greet", "output": "Hello"}]
WITH = "Below is an instruction that describes a task, paired with an input that provides further context. "
WITHOUT = "Below is an instruction that describes a task. "
REQUEST = "Write a response that appropriately completes the request.\n\n"


def opened(path: Path) -> Rows:
    found = catalogue.load(path)
    assert isinstance(found, Rows)
    return found


def lines(values: list[Any], end: str = "\n") -> bytes:
    return end.join(json.dumps(value) for value in values).encode()


def test_the_template_with_and_without_input() -> None:
    found = rows.parse(json.dumps(TWO).encode(), "a.json", one_a_line=False)
    assert found.kind == "instruction"
    assert found.texts == (
        WITH + REQUEST + "### Instruction:\nAdd\n\n### Input:\n1 and 2\n\n### Response:\n",
        WITHOUT + REQUEST + "### Instruction:\nGreet\n\n### Response:\n",
    )
    assert found.answers == ("3", "Hello")


@pytest.mark.parametrize("context", [{}, {"input": None}, {"input": ""}])
def test_an_input_may_be_missing_null_or_empty(context: dict[str, Any]) -> None:
    content = json.dumps([{"instruction": "{x} \\n", "output": "", **context}]).encode()
    assert rows.parse(content, "a.json", one_a_line=False).texts == (prompt({"instruction": "{x} \\n"}),)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(TWO).encode()),
        ("a.json", json.dumps(TWO, indent=2).replace("\n", "\r\n").encode()),
        ("a.json", b"\xef\xbb\xbf" + json.dumps(TWO).encode()),
        ("a.json", lines(TWO)),
        ("a.json", b"\n" + lines(TWO, "\r\n\r\n") + b"\n\n"),
        ("a.jsonl", lines(TWO)),
        ("a.jsonl", b"\xef\xbb\xbf\r\n" + lines(TWO, "\r\n \r\n") + b"\r\n"),
        ("a.json.gz", gzip.compress(json.dumps(TWO).encode(), mtime=0)),
        ("a.jsonl.gz", gzip.compress(lines(TWO), mtime=0)),
    ],
)
def test_every_form_of_a_file_holds_the_same_rows(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found = opened(tmp_path / name)
    assert found.answers == ("3", "Hello")
    assert found.texts == tuple(prompt(row) for row in TWO)
    assert found.title == name


def test_one_row_in_a_json_file_is_a_file_of_lines() -> None:
    assert rows.parse(json.dumps(TWO[0], indent=1).encode(), "a.json", one_a_line=False).answers == ("3",)


def test_kinds_by_the_keys_of_the_first_row() -> None:
    def kind(*values: dict[str, Any]) -> Rows:
        return rows.parse(json.dumps(values).encode(), "a.json", one_a_line=False)

    assert kind({"text": "a"}, {"text": "b", "label": None}) == Rows("a.json", "text", ("a", "b"))
    assert kind({"text": "a", "label": 1}, {"text": "b", "label": 0}) == Rows(
        "a.json", "labelled", ("a", "b"), labels=(1, 0)
    )
    assert kind({"label": "x", "text": "a"}).labels == ("x",)
    assert kind({**TWO[0], "text": "a"}).kind == "instruction"


def test_a_separator_of_unicode_does_not_end_a_line() -> None:
    content = '{"text": "a\u2028b\x85c"}\n{"text": "d"}'.encode()
    assert rows.parse(content, "a.jsonl", one_a_line=True).texts == ("a\u2028b\x85c", "d")


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_text_survives_both_forms(texts: list[str]) -> None:
    values = [{"text": text} for text in texts]
    as_list = rows.parse(json.dumps(values, ensure_ascii=False).encode(), "a.json", one_a_line=False)
    as_lines = rows.parse(
        "\n".join(json.dumps(value, ensure_ascii=False) for value in values).encode(), "a.json", one_a_line=True
    )
    assert as_list.texts == as_lines.texts == tuple(texts)


FAULTS: list[tuple[str, Any, str, str]] = [
    ("json", [TWO[0], {"instruction": "x"}], '"output" is missing (an instruction row needs', "row 2"),
    ("json", [TWO[0], {"output": "x"}], '"instruction" is missing', "row 2"),
    ("json", [{"instruction": "x"}], '"output" is missing', "row 1"),
    ("json", [{"text": "x", "label": 1}, {"text": "x"}], '"label" is missing (a labelled row', "row 2"),
    ("json", [{"text": "x"}, {"label": 1}], '"text" is missing', "row 2"),
    ("json", [{"question": "x", "answer": "y"}], '(its keys: "question", "answer")', "row 1"),
    ("json", [{}], "(its keys: none)", "row 1"),
    ("json", [TWO[0], {**TWO[1], "output": None}], '"output" is null, not text', "row 2"),
    ("json", [TWO[0], {**TWO[1], "output": 3}], '"output" is a number, not text', "row 2"),
    ("json", [TWO[0], {**TWO[1], "instruction": ["x"]}], '"instruction" is a list, not text', "row 2"),
    ("json", [TWO[0], {**TWO[1], "input": {}}], '"input" is an object, not text', "row 2"),
    ("json", [{"text": "x", "label": 1.5}], '"label" is a number, neither text nor a whole', "row 1"),
    ("json", [{"text": "x", "label": True}], '"label" is true or false, neither', "row 1"),
    ("json", [{"text": "x", "label": None}], '"label" is null, neither', "row 1"),
    ("json", [{"text": "x", "label": 1}, {"text": "x", "label": "1"}], "text, but a number in the first", "row 2"),
    ("json", [{"text": "\ud800"}], "surrogate", "row 1"),
    ("json", [TWO[0], {**TWO[1], "input": "\udfff"}], '"input" holds half', "row 2"),
    ("json", [TWO[0], "x"], "text, not an object", "row 2"),
    ("json", [], "no rows", "a.json"),
    ("json", {"data": TWO}, "an object, not a list of rows", "a.json"),
    ("json", 3, "a number, not a list of rows", "a.json"),
    ("jsonl", [TWO], "a list, not an object", "line 1"),
]


@pytest.mark.parametrize(("ending", "value", "what", "where"), FAULTS)
def test_a_row_that_does_not_fit(ending: str, value: Any, what: str, where: str) -> None:
    with pytest.raises(InputError) as refused:
        rows.parse(json.dumps(value).encode(), f"a.{ending}", one_a_line=ending == "jsonl")
    assert what in refused.value.what
    assert where in refused.value.where
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("ending", "content", "what", "where"),
    [
        ("json", b'[{"text": "a"},\n {"text": "b"\n]', "broken JSON", "line 3"),
        ("json", b'[{"text": "a"},\n', "broken JSON", "line 2"),
        ("json", b'{"text": "a"}\n{"text": b}', "broken JSON", "line 2"),
        ("json", b'{\n"text": "a"} x', "broken JSON (extra data)", "line 2"),
        ("json", b"[" * 200_000, "nested too deeply", "a.json"),
        ("json", b'[{"text": "a", "n": ' + b"1" * 5000 + b"}]", "a number is too long", "a.json"),
        ("json", b'[{"text":\n"\xff"}]', "not UTF-8", "line 2"),
        ("json", json.dumps(TWO).encode("utf-16"), "not UTF-8", "line 1"),
        ("jsonl", b'{"text": "a"}\n\n{"text": "b"', "broken JSON", "line 3"),
        ("jsonl", b'\n{"text": "a"}\n\n{"words": "b"}', '"text" is missing', "line 4"),
        ("jsonl", b'{"text": "a"}\n\xff', "not UTF-8", "line 2"),
        ("jsonl", b"\xef\xbb\xbf \n", "no rows", "a.jsonl"),
    ],
)
def test_a_file_that_is_broken(ending: str, content: bytes, what: str, where: str) -> None:
    with pytest.raises(InputError) as refused:
        rows.parse(content, f"a.{ending}", one_a_line=ending == "jsonl")
    assert what in refused.value.what
    assert refused.value.where.endswith(where)


def test_errors_quote_no_text_of_the_data() -> None:
    secret = "kept to itself"
    for value in ([{"text": "x"}, {"words": secret}], [{"text": "x"}, {"text": [secret]}], [secret], secret):
        with pytest.raises(InputError) as refused:
            rows.parse(json.dumps(value).encode(), "a.json", one_a_line=False)
        assert secret not in f"{refused.value} {refused.value.hint}"
