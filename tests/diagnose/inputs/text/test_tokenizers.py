"""Which tokenizer reads the text, and what it says of itself."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diagnose.errors import InputError
from diagnose.inputs.models.modules import vocabulary
from diagnose.inputs.text.tokenizers import Bytes, Pretrained, choose, pretrained
from diagnose.settings import Settings
from tests.diagnose.inputs.text import cases

verbosity: Any = transformers.utils.logging.get_verbosity


def listed(tokenizer: Any, *texts: str) -> list[list[int]]:
    return [ids.tolist() for ids in tokenizer.encode(texts)]


@pytest.mark.parametrize(("size", "pad"), [(256, 0), (257, 256)])
def test_bytes_where_the_vocabulary_is_that_of_bytes(size: int, pad: int) -> None:
    tokenizer = choose(cases.gpt2(size), None, Settings(), "m")
    assert tokenizer == Bytes(pad)
    assert (tokenizer.end, tokenizer.mask, tokenizer.before, tokenizer.after) == (None, None, (), ())


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_bytes_are_the_utf8_of_the_text(text: str) -> None:
    assert bytes(Bytes().encode([text])[0]) == text.encode()


def test_a_module_that_does_not_say_its_vocabulary_takes_bytes() -> None:
    module = nn.Sequential(nn.Embedding(300, 4), nn.Linear(4, 300))
    assert vocabulary(module) is None
    assert choose(module, None, Settings(), "m") == Bytes()


def test_no_tokenizer_is_an_error_that_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for folder in (None, tmp_path):
        with pytest.raises(InputError, match=r"no tokenizer for m: its vocabulary has 32 tokens") as refused:
            choose(cases.gpt2(), folder, Settings(), "m")
        assert "`--tokenizer`" in refused.value.hint


def test_the_one_asked_for_comes_before_the_one_of_the_model(tmp_path: Path) -> None:
    own, asked = cases.saved(tmp_path / "own"), cases.saved(tmp_path / "asked", words=("more",))
    module = cases.gpt2(256)
    assert choose(module, own, Settings(), "m").form == "tokens of own"
    assert choose(module, own, Settings(tokenizer=str(asked)), "m").form == "tokens of asked"
    assert choose(module, None, Settings(tokenizer=str(asked)), "m").form == "tokens of asked"


def test_special_tokens_and_what_stands_around_a_text(tmp_path: Path) -> None:
    tokenizer = pretrained(cases.saved(tmp_path / "a", around=("[CLS]", "[SEP]")), "m")
    assert (tokenizer.pad, tokenizer.end, tokenizer.mask) == (cases.PAD, cases.EOS, cases.MASK)
    assert (tokenizer.before, tokenizer.after) == ((cases.CLS,), (cases.SEP,))
    assert listed(tokenizer, "a b", "", "c ?") == [cases.ids("a b"), [], [*cases.ids("c"), cases.UNKNOWN]]
    assert listed(tokenizer) == []


def test_what_stands_around_a_text_without_a_token_for_the_unknown(tmp_path: Path) -> None:
    folder = cases.saved(tmp_path / "a", around=("", "[SEP]"), names=("sep",))
    inner = json.loads((folder / "tokenizer.json").read_text())
    without = ("1 a", "1 b", "1 c", "1 d", "1 e", "Ab")  # words that the rules of the tokenizer change or split
    words = {word: number for number, word in enumerate((*without, "zebra"), start=10)}
    inner["model"]["vocab"] = {"[SEP]": cases.SEP, **words}
    inner["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(inner))
    tokenizer = pretrained(folder, "m")
    assert (tokenizer.before, tokenizer.after) == ((), (cases.SEP,))


def test_what_stands_in_for_special_tokens_that_are_missing(tmp_path: Path) -> None:
    def found(*names: str) -> tuple[int, int | None, int | None]:
        tokenizer = pretrained(cases.saved(tmp_path / "-".join(names), names=names), "m")
        return tokenizer.pad, tokenizer.end, tokenizer.mask

    assert found("unk", "eos") == (cases.EOS, cases.EOS, None)
    assert found("unk", "sep") == (0, cases.SEP, None)
    assert found("unk") == (0, None, None)


def test_a_tokenizer_file_alone_will_do(tmp_path: Path) -> None:
    folder = cases.saved(tmp_path / "a")
    (folder / "tokenizer_config.json").unlink()
    assert [path.name for path in folder.iterdir()] == ["tokenizer.json"]
    assert listed(pretrained(folder, "m"), "a b") == [cases.ids("a b")]


def test_a_length_stored_with_the_tokenizer_cuts_nothing(tmp_path: Path) -> None:
    tokenizer = pretrained(cases.saved(tmp_path / "a", truncate=3), "m")
    assert listed(tokenizer, "a b c d e f", "a") == [cases.ids("a b c d e f"), cases.ids("a")]


def test_nothing_reaches_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    before = verbosity()
    log = logging.getLogger("transformers")
    handler = logging.Handler(logging.WARNING)
    monkeypatch.setattr(handler, "emit", lambda record: said.append(record.getMessage()))
    log.addHandler(handler)
    transformers.utils.logging.set_verbosity_warning()  # type: ignore[no-untyped-call]
    try:
        tokenizer = pretrained(cases.saved(tmp_path / "a"), "m")
        tokenizer.encode(["a " * 3000])
        assert not said
        assert verbosity() == logging.WARNING
        transformers.AutoTokenizer.from_pretrained(tmp_path / "a")("a " * 3000)
        assert len(said) == 1  # left to itself it warns of the length
    finally:
        log.removeHandler(handler)
        transformers.utils.logging.set_verbosity(before)


def test_a_folder_that_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no tokenizer in this folder"):
        choose(cases.gpt2(), None, Settings(tokenizer=str(tmp_path)), "m")
    with pytest.raises(InputError, match="no such folder: --tokenizer"):
        choose(cases.gpt2(), None, Settings(tokenizer=str(tmp_path / "nothing")), "m")


def test_code_of_a_folder_runs_only_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    folder = cases.saved(tmp_path / "a")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}))
    (folder / "own.py").write_text(
        "from transformers import PreTrainedTokenizerFast\nclass Own(PreTrainedTokenizerFast):\n    pass\n"
    )
    with pytest.raises(InputError, match="the tokenizer is Python code in the folder") as refused:
        choose(cases.gpt2(), folder, Settings(), "m")
    assert "--trust-remote-code" in refused.value.hint
    tokenizer = choose(cases.gpt2(), folder, Settings(trust_remote_code=True), "m")
    assert listed(tokenizer, "a b") == [cases.ids("a b")]
    (folder / "own.py").write_text("raise SystemExit")
    with pytest.raises(InputError, match="the tokenizer cannot be read"):
        choose(cases.gpt2(), folder, Settings(trust_remote_code=True), "m")


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": "{"},
        {"tokenizer.json": "{}"},
        {"tokenizer.json": '{"model": {"type": "Unheard"}}'},
        {"tokenizer_config.json": "{}"},
        {"tokenizer_config.json": '{"tokenizer_class": "Unheard"}'},
        {"tokenizer_config.json": '{"tokenizer_class": "GPT2Tokenizer"}'},
        {"vocab.json": "{}", "config.json": '{"model_type": "gpt2"}'},
        {"tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["own.Own", null]}}', "own.py": "raise SystemExit"},
    ],
)
def test_a_broken_tokenizer_is_one_line(tmp_path: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="the tokenizer") as refused:
        pretrained(tmp_path, "m")
    assert "\n" not in str(refused.value)


def test_a_text_that_cannot_be_encoded_is_not_quoted(tmp_path: Path) -> None:
    tokenizer = pretrained(cases.saved(tmp_path / "a", names=("eos",)), "m")
    assert isinstance(tokenizer, Pretrained)
    with pytest.raises(InputError, match="cannot encode this text: tokens of a") as refused:
        tokenizer.encode(["secret"])
    assert "secret" not in f"{refused.value} {refused.value.hint}"


def test_the_tokenizer_of_gpt2(data_folder: Path) -> None:
    tokenizer = pretrained(data_folder / "gpt2_tokenizer", "m")
    assert (tokenizer.pad, tokenizer.end, tokenizer.mask) == (50256, 50256, None)
    assert (tokenizer.before, tokenizer.after) == ((), ())
    assert listed(tokenizer, "Hello world") == [[15496, 995]]
