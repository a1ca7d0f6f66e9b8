"""The command: exit codes, the form of errors, what reaches stdout, and what the command loads."""

from __future__ import annotations

import errno
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnose
from diagnose import pipeline
from diagnose.command import cli, usage
from diagnose.errors import InputError
from diagnose.events import Events
from diagnose.settings import Settings
from diagnose.store import Store
from reports.record.diagnosis import Diagnosis
from tests.reports import made

Execute = Callable[..., Diagnosis]
STOP = "\x1b[31m"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder without a data folder, and a folder of bad files beside it."""
    work, bad = tmp_path / "work", tmp_path / "bad"
    work.mkdir()
    bad.mkdir()
    monkeypatch.delenv("DIAGNOSE_DATA", raising=False)
    monkeypatch.chdir(work)
    (bad / "line.svm").write_text("1 1:2\n0 1:x\n")
    (bad / "nan.svm").write_text("1 1:2\n0 1:nan\n")
    (bad / "one.svm").write_text("1 1:2\n1 1:3\n")
    (bad / "empty").write_text("")
    (bad / "cut.gz").write_bytes(b"\x1f\x8b\x08\x00cut")
    (bad / "short.txt").write_text("short")
    (bad / "rows.csv").write_text("a,b\n")
    (bad / f"{STOP}[red]x.svm").write_text("1 1:2\nx\n")
    np.savez(bad / "nothing.npz", a=np.zeros(2))
    np.savez(bad / "objects.npz", allow_pickle=True, x=np.array([{}, {}]), y=np.zeros(2))
    np.savez(bad / "lengths.npz", x=np.zeros((2, 2)), y=np.zeros(3))
    return work


BAD: list[tuple[str, str, str]] = [
    ("", "MODEL is missing", "diagnose MODEL --data DATA"),
    ("logreg", "DATA is missing", "diagnose MODEL --data DATA"),
    ("logreg --data", "option '--data' requires an argument", "--help"),
    ("logreg iris --data iris", "unexpected extra argument", "diagnose MODEL --data DATA"),
    ("repot d", "unknown command: repot", "did you mean `diagnose report`?"),
    ("report", "DIR is missing", "`diagnose report DIR`"),
    ("report nowhere", "no result.json: nowhere", "diagnose MODEL"),
    ("report a b", "unexpected extra argument", "`diagnose report DIR`"),
    ("compare a b", "compare: not available in this version", ""),
    ("datasets", "datasets: not available in this version", ""),
    ("model", "unknown command: model", "did you mean `diagnose models`?"),
    ("model.pt", "DATA is missing", "diagnose MODEL --data DATA"),
    ("models mpl", "unknown model: mpl", "did you mean `mlp`?"),
    ("models a b", "unexpected extra argument", "`diagnose models NAME --save FILE`"),
    ("models --save x.pt", "NAME is missing", "`diagnose models NAME --save FILE`"),
    ("models mlp --save x.pt", "the size of mlp follows the data: --save", "`diagnose mlp --data DATA`"),
    ("models zzz --save x.pt", "unknown model: zzz", "use one of logreg"),
    ("models resnet20 --save=", "is not a name: --save", "the path of a file"),
    ("models resnet20 --save ../bad/cut.gz", "the file exists and holds something else", "`--fresh`"),
    ("models resnet20 --save no/x.pt", "no such folder: no/x.pt", ""),
    ("models resnet20 --save x.safetensors", "a safetensors file holds no architecture", "`x.pt`"),
    ("models resnet20 --save x.pt --seed x", "`x` is not a whole number: --seed", ""),
    ("models resnet20 --save x.pt --seed -1", "not a whole number of at least 0: --seed", ""),
    ("models --fresh", "only a model that is written takes it: --fresh", "add `--save FILE`"),
    ("models mlp --seed 3", "only a model that is written takes it: --seed", "add `--save FILE`"),
    ("models --sav x.pt", "unknown option: --sav", "did you mean `--save`?"),
    ("calibrate", "calibrate: not available in this version", ""),
    *((f"logreg --data iris {name}", f"{name}: not available in this version", "") for name in usage.LATER_OPTIONS),
    ("logreg --data iris --budget=10x", "`10x` is no length of time: --budget", "give 90s, 10m, 1h, 1h30m or seconds"),
    ("logreg --data iris --bach-size 3", "unknown option: --bach-size", "did you mean `--batch-size`?"),
    ("logreg --data iris --zzz", "unknown option: --zzz", "`diagnose --help` lists the options"),
    ("logreg --data iris --steps ten", "`ten` is not a whole number: --steps", "training steps"),
    ("logreg --data iris --steps 1.5", "`1.5` is not a whole number: --steps", ""),
    ("logreg --data iris --steps 0", "`0` is not a whole number of at least 1: --steps", ""),
    ("logreg --data iris --seeds -1", "`-1` is not auto or a whole number of at least 1: --seeds", ""),
    ("logreg --data iris --seeds many", "`many` is not a whole number: --seeds", "as many as it takes (auto)"),
    ("logreg --data iris --skip smothness", "unknown value `smothness`: --skip", "did you mean `smoothness`?"),
    ("logreg --data iris --skip noise", "unknown value `noise`: --skip", "one of smoothness, spectrum, hessian-diag"),
    ("logreg --data iris --skip=,", "unknown value `,`: --skip", "one of smoothness"),
    ("logreg --data iris --gap x", "`x` is not a number: --gap", ""),
    ("logreg --data iris --gap nan", "`nan` is not auto or a finite number above 0: --gap", ""),
    ("logreg --data iris --learning-rates 1,,x", "`x` is not a number: --learning-rates", ""),
    ("logreg --data iris --learning-rates=,", "no value given: --learning-rates", ""),
    ("logreg --data iris --loss hinge", "unknown value `hinge`: --loss", "cross-entropy, logistic, squared"),
    ("logreg --data iris --optimizers sgd,adagard", "unknown value `adagard`", "did you mean `adagrad`?"),
    ("logreg --data iris --dtype float16", "unknown value `float16`: --dtype", "float32, float64"),
    ("logreg --data iris --out=", "is not a name: --out", ""),
    ("logreg --data iris --device gpu", "unknown device: --device gpu", "cpu"),
    ("logrge --data iris", "unknown model: logrge", "did you mean `logreg`?"),
    ("gpt2 --data iris", "no such model or folder here: gpt2", "hf download"),
    ("gpt2-medium --data iris", "no such model or folder here: gpt2-medium", "hf download"),
    ("gpt2-mni --data iris", "unknown model: gpt2-mni", "did you mean `gpt2-mini`?"),
    ("bert-base-uncased --data iris", "no such model or folder here: bert-base-uncased", "hf download"),
    ("google/vit-base-patch16 --data iris", "no such model or folder here: google/vit-base-patch16", "hf download"),
    ("hf:gpt2 --data iris", "model `hf:gpt2`: not available in this version", "hf download"),
    ("resnet18 --data iris", "unknown model: resnet18", "`torchvision.models:resnet18`"),
    ("resnet-20 --data iris", "unknown model: resnet-20", "did you mean `resnet20`?"),
    ("model.pt --data iris", "no such file: model.pt", "check the path"),
    ("../bad --data iris", "no config.json in the folder: bad", "save_pretrained"),
    ("../bad/empty --data iris", "empty file: empty", ""),
    ("../bad/rows.csv --data iris", "no checkpoint: rows.csv", "torch.save"),
    ("model.pt2 --data iris", "model `model.pt2`: not available in this version", ""),
    ("my.module:factory --data iris", "no module `my`: my.module:factory", "working folder"),
    ("mlp --data iris --architecture mlp", "mlp is an architecture itself: --architecture", "leave it out"),
    ("logreg --data brest-cancer", "unknown data: brest-cancer", "did you mean `breast-cancer`?"),
    ("logreg --data hf:imdb", "data `hf:imdb`: not available in this version", ""),
    ("logreg --data w8a", "unknown data: w8a", "w8a.gz"),
    ("logreg --data nothing.svm", "no such file: nothing.svm", "check the path"),
    ("logreg --data ../bad/nothing.svm", "no such file", "check the path"),
    ("logreg --data ../bad", "a folder, not a data file", ""),
    ("logreg --data ../bad/empty", "empty file", ""),
    ("logreg --data ../bad/line.svm", "`x` is not a number: ../bad/line.svm, line 2", "index:value"),
    ("logreg --data ../bad/nan.svm", "NaN or infinity in the data, `nan`: ../bad/nan.svm, line 2", ""),
    ("logreg --data ../bad/one.svm", "a single class, label 1", "two classes"),
    ("logreg --data ../bad/cut.gz", "broken gzip file", ""),
    ("logreg --data ../bad/rows.csv", "`.csv` data", "LIBSVM"),
    ("mlp --data ../bad/nothing.npz", "no arrays x and y", "numpy.savez"),
    ("mlp --data ../bad/objects.npz", "Python objects", ""),
    ("mlp --data ../bad/lengths.npz", "2 rows of inputs and 3 targets", ""),
    ("logreg --data iris", "3 classes, but logreg", "use `softmax`"),
    ("softmax --data diabetes", "numbers to predict", "--loss squared"),
    ("logreg --data iris --loss squared", "logreg has the loss logistic", "`mlp`"),
    ("mlp --data pydoc-topics", "mlp takes rows of numbers, not text", "gpt2-mini"),
    ("gpt2-mini --data iris", "takes text, not rows of numbers", ""),
    ("cnn --data iris", "cnn takes images", "mlp"),
    ("gpt2-mini --data ../bad/short.txt", "shorter than one block", "--max-length 5"),
    ("gpt2-mini --data pydoc-topics --max-length 513", "512 positions", "512"),
    ("softmax --data iris --features 9", "only LIBSVM text", ""),
    ("softmax --data iris --max-length 9", "only text", ""),
]


@pytest.mark.parametrize(("words", "error", "hint"), BAD)
def test_bad_input_is_two_lines_and_exit_code_2(
    here: Path, capsys: pytest.CaptureFixture[str], words: str, error: str, hint: str
) -> None:
    assert cli.main(words.split()) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0].startswith("error: ")
    assert error in lines[0]
    assert len(lines) == (2 if len(lines) > 1 and lines[1].startswith("hint: ") else 1)
    assert hint in lines[-1]
    assert os.listdir(here) == []


LOOKS_UP = """
from torch import nn

class Looks(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(10, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.table(x.long()).mean(1))
"""


def test_a_number_beyond_an_embedding_in_a_later_row_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 50 of 60, by the command and from Python."""
    (here / "looks_up.py").write_text(LOOKS_UP)
    inputs = np.random.default_rng(0).integers(0, 10, (60, 3))
    inputs[50, 1] = 12
    labels = np.arange(60) % 2
    np.savez(here / "rows.npz", x=inputs, y=labels)
    said = "number 12, but an embedding of Looks has rows 0 to 9: sample 50"
    assert cli.main(["looks_up:Looks", "--data", "rows.npz"]) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert (out, lines[0], len(lines)) == ("", f"error: {said}", 2)
    assert lines[1].startswith("hint: ")
    monkeypatch.syspath_prepend(str(here))
    import torch

    model = importlib.import_module("looks_up").Looks()
    with pytest.raises(InputError) as refused:
        diagnose.run(model, (torch.from_numpy(inputs), torch.from_numpy(labels)))
    assert str(refused.value) == said


def test_a_name_with_control_characters_is_shown_escaped(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["logreg", "--data", f"../bad/{STOP}[red]x.svm"],
        [f"log{STOP}\n", "--data", "iris"],
        ["logreg", "--data", f"a\u202e{STOP}"],
        ["logreg", "--data", "iris", f"--{STOP}"],
        ["logreg", "--data", "iris", f"x{STOP}"],
        ["report", f"{STOP}\n"],
        ["logreg", "--data", "iris", "--steps", STOP],
    ):
        assert cli.main(words) == 2
        err = capsys.readouterr().err
        assert all(c.isprintable() or c == "\n" for c in err)
        assert len(err.splitlines()) <= 2
    assert cli.main(["logreg", "--data", f"../bad/{STOP}[red]x.svm"]) == 2
    assert "\\x1b[31m[red]x.svm, line 2" in capsys.readouterr().err


def fake(monkeypatch: pytest.MonkeyPatch, act: Callable[[Events], None] = lambda events: None) -> list[Settings]:
    """Put a run in place of the pipeline's that only acts; returns the settings that it was called with."""
    called: list[Settings] = []

    def execute(settings: Settings, model: Any, data: Any, *, command: str, events: Events) -> Diagnosis:
        called.append(settings)
        events.progress("smoothness", 1, 2)
        act(events)
        return made.finished()

    monkeypatch.setattr(pipeline, "execute", execute)
    return called


def raiser(error: BaseException) -> Callable[[Events], None]:
    def act(events: Events) -> None:
        raise error

    return act


def test_options_reach_the_settings(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = fake(monkeypatch)
    words = "mlp --data iris --loss cross-entropy --samples 9 --probes 8 --batch-size 7 --steps 6 --seeds 5 --seed 4"
    more = "--optimizers sgd,adam --learning-rates .1,1e-2 --device cpu --dtype float64 --max-length 3 --features 2"
    rest = "--gap .02 --skip spectrum,training --no-training --fresh --out DIR --tokenizer T --architecture A"
    trust = "--trust-pickle --trust-remote-code"
    assert cli.main(f"{words} {more} {rest} {trust}".split()) == 0
    assert called == [
        Settings(
            loss="cross-entropy",
            samples=9,
            probes=8,
            batch_size=7,
            steps=6,
            seeds=5,
            skip=("spectrum", "training"),
            seed=4,
            optimizers=("sgd", "adam"),
            learning_rates=(0.1, 0.01),
            device="cpu",
            dtype="float64",
            max_length=3,
            features=2,
            tokenizer="T",
            architecture="A",
            trust_pickle=True,
            trust_remote_code=True,
            gap=0.02,
            training=False,
            fresh=True,
            out="DIR",
        )
    ]
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"  report: {Path('DIR') / 'report.html'}"


def test_the_defaults_are_those_of_the_settings(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = fake(monkeypatch)
    assert cli.main(["--data", "iris", "softmax"]) == 0
    assert called == [Settings(out="diagnosis-softmax-iris")]


def test_quiet_prints_the_path_alone(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, lambda events: events.finished("noise", "9 samples", 1.0, "density 1"))
    assert cli.main(["softmax", "--data", "iris", "--quiet"]) == 0
    assert capsys.readouterr() == (f"{Path('diagnosis-softmax-iris') / 'report.html'}\n", "")


def terminate(events: Events) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("act", [raiser(KeyboardInterrupt()), terminate])
def test_an_interrupt_says_how_to_go_on(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Events], None],
) -> None:
    fake(monkeypatch, act)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["softmax", "--data", "my data", "--fresh", "--steps", "5"]) == 130
    assert signal.getsignal(signal.SIGTERM) == before
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-2:] == [
        "interrupted: stage smoothness",
        "hint: `diagnose softmax --data 'my data' --steps 5` goes on from there",
    ]


def test_an_interrupt_says_how_to_see_what_there_is(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(here / "a run").save(made.empty("interrupted"))
    fake(monkeypatch, raiser(KeyboardInterrupt()))
    assert cli.main(["softmax", "--data", "iris", "--out", "a run"]) == 130
    (hint,) = capsys.readouterr().err.splitlines()[-1:]
    again, see = re.findall(r"`diagnose ([^`]+)`", hint)
    assert again == "softmax --data iris --out 'a run'"
    assert see == "report 'a run'"
    assert cli.main(shlex.split(see)) == 0
    assert "the run is not finished" in (here / "a run" / "report.html").read_text()


def test_nothing_goes_on_after_an_interrupted_plan(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("diagnose.planning.plan.plan", stop)
    assert cli.main(["softmax", "--data", "iris", "--plan"]) == 130
    assert capsys.readouterr().err == "interrupted: before the first stage\n"


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "no room left on the disk"),
        (PermissionError(errno.EACCES, "Permission denied", "diagnosis-softmax-iris/runs.csv"), "cannot be written"),
    ],
)
def test_no_room_is_no_traceback(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, what: str
) -> None:
    fake(monkeypatch, raiser(error))
    assert cli.main(["softmax", "--data", "iris"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert what in lines[0]
    assert lines[0].startswith("error: ")
    assert [line[:6] for line in lines[1:]] == ["hint: "]


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError(f"{STOP}bug"),
        RuntimeError("size mismatch"),
        EOFError(),
        PermissionError(errno.EACCES, "Permission denied", "elsewhere/file"),
    ],
)
def test_a_bug_of_ours_shows_its_traceback(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fake(monkeypatch, raiser(error))
    assert cli.main(["softmax", "--data", "iris"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert type(error).__name__ in err
    assert STOP not in err


def test_the_plan_prints_a_table_and_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["softmax", "--data", "iris", "--plan"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("  softmax: 12 parameters")
    assert re.search(r"\n +stage +passes +time +memory\n", out)
    assert out.splitlines()[-1].split()[0] == "total"
    assert err == ""
    assert os.listdir(here) == []


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"diagnose \d+\.\d+\.\d+\n", capsys.readouterr().out)
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in (
        "--samples",
        "--no-training",
        "--skip",
        "--seeds",
        "--architecture",
        "--fresh",
        "diagnose report DIR",
        "diagnose models",
    ):
        assert name in text
    for name in usage.LATER_OPTIONS:
        assert not re.search(rf"{name}\b(?!-)", text)
    assert cli.main(["report", "--help"]) == 0
    assert "DIR" in capsys.readouterr().out


PATIENCE = 600
"""Seconds for a process that takes a few: on a busy machine importing torch alone may take half a minute."""


def isolated(code: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh interpreter, with stdout and stderr in pipes."""
    root = str(Path(cli.__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": root, **variables},
    )


HEAVY = "[name for name in ('torch', 'transformers', 'pandas', 'seaborn', 'sklearn') if name in sys.modules]"


def test_help_loads_nothing_heavy() -> None:
    ended = isolated(f"import sys; from diagnose.command.cli import main; main(['--help']); print({HEAVY})")
    assert ended.stdout.splitlines()[-1] == "[]"


def test_the_models_are_listed_without_torch() -> None:
    ended = isolated(f"import sys; from diagnose.command.cli import main; main(['models']); print({HEAVY})")
    *lines, heavy = ended.stdout.splitlines()
    assert heavy == "[]"
    assert lines[0].split() == ["name", "parameters", "takes", "form"]
    assert [line.split()[0] for line in lines[1:]] == ["logreg", "softmax", "mlp", "cnn", "resnet20", "gpt2-mini"]
    assert "30 on breast-cancer" in lines[1]
    assert "891,776" in lines[-1]


def test_a_run_loads_neither_the_compiler_nor_transformers(tmp_path: Path) -> None:
    words = ["logreg", "--data", "breast-cancer", "--quiet", "--no-training", "--out", str(tmp_path / "run")]
    unused = "[name for name in ('torch._dynamo', 'torch.distributed.tensor', 'transformers') if name in sys.modules]"
    ended = isolated(f"import sys; from diagnose.command.cli import main; print(main(sys.argv[1:]), {unused})", *words)
    assert ended.stdout.splitlines()[-1] == "0 []", ended.stderr


def test_a_model_is_written_once_and_again_where_it_is_the_same(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["models", "resnet20", "--save", "m.pt"]
    for _ in range(2):
        assert cli.main(words) == 0
        expected = "m.pt: resnet20, 269,722 parameters with 10 classes, weights at random, seed 0\n"
        assert capsys.readouterr() == (expected, "")
    assert cli.main([*words, "--seed", "1"]) == 2
    assert "`--fresh` replaces it" in capsys.readouterr().err
    assert cli.main([*words, "--seed", "1", "--fresh"]) == 0
    assert "seed 1" in capsys.readouterr().out
    assert os.listdir(here) == ["m.pt"]
    assert cli.main(["models", "mlp"]) == 0
    assert "8,778 on digits" in capsys.readouterr().out.splitlines()[1]


def test_a_report_is_written_again_without_torch(tmp_path: Path) -> None:
    Store(tmp_path).save(made.finished())
    code = "import sys; from diagnose.command.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    ended = isolated(code, "report", str(tmp_path))
    assert ended.stdout.splitlines() == [f"report: {tmp_path / 'report.html'}", "0 False"]
    assert ended.stderr == ""
    page = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()
    assert cli.main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_bytes() == page


def test_a_report_that_cannot_be_written_is_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store(tmp_path).save(made.finished())
    (tmp_path / ".report.html.partial").mkdir()
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "the folder cannot be written" in capsys.readouterr().err.splitlines()[0]


def test_modules_that_promise_it_load_no_torch() -> None:
    ended = isolated(
        "import sys, diagnose, diagnose.command.console, diagnose.events, diagnose.inputs, diagnose.settings; "
        f"print({HEAVY})"
    )
    assert ended.stdout == "[]\n"


def test_the_module_exits_with_the_code_of_the_command(tmp_path: Path) -> None:
    root = str(Path(cli.__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, "-m", "diagnose", "report", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert [line[:6] for line in ended.stderr.splitlines()] == ["error:", "hint: "]


def test_a_terminal_that_knows_ascii_alone_is_no_reason_to_fail() -> None:
    code = "import sys; from diagnose.command.cli import main; sys.exit(main(sys.argv[1:]))"
    ended = isolated(code, "logreg", "--data", "größe", PYTHONIOENCODING="ascii", DIAGNOSE_DATA="")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[0] == "error: unknown data: gr\\xf6\\xdfe"
