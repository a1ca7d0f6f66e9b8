"""A checkpoint and instruction rows, from the command's words to the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import diagnose
from diagnose.errors import InputError
from diagnose.inputs import open_task
from diagnose.settings import Settings
from reports.record.diagnosis import Diagnosis

QUICK: dict[str, Any] = {
    "samples": 6,
    "batch_size": 3,
    "steps": 4,
    "seeds": 1,
    "probes": 4,
    "gap": 2.0,
    "optimizers": ("sgd", "adagrad"),
    "learning_rates": (0.01, 0.1),
    "max_length": 240,
}
SECRET = "Xylophonist"


def rows(count: int) -> list[dict[str, str | None]]:
    return [
        {"instruction": f"Say {SECRET} {i}", "input": None, "output": f"{SECRET * (i % 3 + 1)} it is"}
        for i in range(count)
    ]


def small_gpt2(vocabulary: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    special: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 256}
    config = GPT2Config(vocab_size=vocabulary, n_positions=256, n_embd=8, n_layer=3, n_head=2, **special)
    return GPT2LMHeadModel(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished diagnosis of a saved GPT-2 over bytes on instruction rows."""
    home = tmp_path_factory.mktemp("language")
    diagnose.save(small_gpt2(257), home / "model.pt")
    (home / "mine.json").write_text(json.dumps(rows(8)), encoding="utf-8")
    left_out = {"skip": ("spectrum", "generalized-smoothness")}
    diagnose.run(str(home / "model.pt"), str(home / "mine.json"), out=str(home / "out"), **QUICK, **left_out)
    return home / "out"


@pytest.mark.sweep
def test_spectrum_and_generalized_smoothness_of_a_language_model(folder: Path) -> None:
    """The folder goes on to the parts that take longest, and its page shows them."""
    home = folder.parent
    found = diagnose.run(str(home / "model.pt"), str(home / "mine.json"), out=str(folder), **QUICK)
    assert found.status == "finished"
    assert found.generalized_smoothness.points
    assert "skipped (--skip" not in (folder / "report.html").read_text(encoding="utf-8")


def test_the_rows_are_understood(folder: Path) -> None:
    found = Diagnosis.load(folder)
    model, data, loss, samples, others = found.task.understood or ()
    assert model.startswith("model.pt: 6,736 parameters (tied tensors counted once), GPT2LMHeadModel")
    assert data.startswith("mine.json: 8 rows, bytes as tokens, cut to 240: 8 usable rows")
    assert loss == "loss cross-entropy of the next token"
    assert samples == "sample set: 6 of 8 sequences, drawn with seed 0"
    assert others == "held out for validation: 2 of the 2 sequences outside the sample set"
    assert all(entry["validation_loss"] > 0 for entry in (found.training.methods or {}).values())
    assert found.status == "finished"
    assert found.verdict.answer is not None


def test_the_embedding_is_shown_by_token_frequency(folder: Path) -> None:
    found = Diagnosis.load(folder)
    for part in (found.noise, found.smoothness):
        table = part.token_deciles
        assert table is not None
        assert table[0]["decile"] == 0
        assert sum(row["tokens"] for row in table) == 257
    page = (folder / "report.html").read_text(encoding="utf-8")
    for words in ("transformer.h.0", "transformer.h.2", "transformer.wte.weight", "never"):
        assert words in page


def test_nothing_of_the_text_and_no_path_is_written(folder: Path) -> None:
    for path in folder.iterdir():
        content = path.read_bytes()
        assert SECRET.encode() not in content, path.name
        assert str(folder.parent).encode() not in content, path.name


def test_every_answer_cut_away_names_a_length_that_would_do(folder: Path) -> None:
    home = folder.parent
    with pytest.raises(InputError) as caught:
        diagnose.run(str(home / "model.pt"), str(home / "mine.json"), **{**QUICK, "max_length": 100})
    assert "--max-length" in caught.value.hint
    length = int("".join(c for c in caught.value.hint.partition("`,")[0] if c.isdigit()))
    assert 100 < length <= 256


def test_a_vocabulary_that_is_not_of_bytes_asks_for_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    diagnose.save(small_gpt2(300), tmp_path / "model.pt")
    with pytest.raises(InputError, match="no tokenizer") as caught:
        diagnose.run(str(tmp_path / "model.pt"), str(folder.parent / "mine.json"), **QUICK)
    assert "--tokenizer" in caught.value.hint


def test_not_a_number_among_the_weights_names_the_tensor(folder: Path, tmp_path: Path) -> None:
    model = small_gpt2(257)
    model.transformer.h[1].mlp.c_fc.weight.data[0, 0] = float("nan")
    diagnose.save(model, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"transformer\.h\.1\.mlp\.c_fc\.weight"):
        diagnose.run(str(tmp_path / "model.pt"), str(folder.parent / "mine.json"), **QUICK)


def test_sequences_lose_the_columns_that_are_padding_in_all_of_them() -> None:
    tokens = torch.arange(1, 11).reshape(2, 5)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    rows = {"input_ids": tokens, "attention_mask": mask, "labels": torch.where(mask == 0, -100, tokens)}
    opened, _ = open_task(small_gpt2(257), rows, Settings())
    assert isinstance(opened.samples, dict)
    assert {key: tuple(tensor.shape) for key, tensor in opened.samples.items()} == dict.fromkeys(rows, (2, 3))
    kept, _ = open_task(small_gpt2(257), {**rows, "labels": tokens}, Settings())
    assert isinstance(kept.samples, dict)
    assert kept.samples["input_ids"].shape == (2, 5)  # a label there would be lost


def test_embedded_sequences_have_no_token_numbers_to_cut() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    rows = {"inputs_embeds": torch.randn(2, 3, 8), "attention_mask": mask, "labels": torch.tensor([[1, 2, -100]] * 2)}
    opened, _ = open_task(small_gpt2(257), rows, Settings())
    assert isinstance(opened.samples, dict)
    assert opened.samples["inputs_embeds"].shape == (2, 3, 8)
