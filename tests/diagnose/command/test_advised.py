"""What the tool advises can be done: options that it names are there, values that it names are taken."""

from __future__ import annotations

import ast
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diagnose.command import cli
from diagnose.command.usage import LATER_OPTIONS
from diagnose.events import Events
from diagnose.settings import Settings, flag
from diagnose.training.looks import seeds_that_tell
from diagnose.verdict.advice import Raced, advice
from estimators import Problem, noise
from estimators.results import Finding
from reports.record.diagnosis import Diagnosis
from tests.diagnose.verdict.cases import NOISE, OFF, trained

ROOT = Path(__file__).parents[3]
NAMED = re.compile(r"`(--[a-z-]+)(?: ([^`]+))?`")
TYPED = {flag(item.name) for item in fields(Settings)} | {"--save", "--data"}


def texts() -> list[tuple[str, str]]:
    """Every string of the three packages, with its file; what stands in braces of an f-string as `{}`."""
    found = []
    for package in ("diagnose", "estimators", "reports"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    whole = "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
                    found.append((path.name, whole))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append((path.name, node.value))
    return found


def test_every_option_that_a_text_names_is_one_of_this_version() -> None:
    named = {(name, option) for name, text in texts() for option, _ in NAMED.findall(text)}
    assert len(named) > 30
    assert not {(name, option) for name, option in named if option not in TYPED}
    assert not {(name, option) for name, option in named if option in LATER_OPTIONS}


def noisy(samples: int, rows: int, spread: float = 1.0) -> list[Finding]:
    """What the noise of so many of the rows is warned of; ``spread`` of the logarithm of the samples' sizes."""
    generator = torch.Generator().manual_seed(samples)
    size = (spread * torch.randn(samples, 1, generator=generator)).exp()
    x = size * torch.randn(samples, 3, generator=generator)
    return list(noise(Problem(nn.Linear(3, 1), (x, x.sum(1, keepdim=True)), "squared"), rows=rows).warnings)


def advised() -> list[str]:
    drawn = [(64, 70), (64, 5000), (20, 24), (20, 10**6), (12, 5000)]
    hopeless = trained([1.0] * 4, speedup=1.2, speedup_interval=(0.007, 2700.0))
    races = (trained([1.5]), trained([2.4, 0.9, 2.2, 0.8]), hopeless, OFF)
    return [
        *(finding.action for samples, rows in drawn for finding in noisy(samples, rows)),
        *(advice("undecided", one, NOISE, None, Raced(32, rows=1000)) for one in races),
    ]


def test_an_option_with_a_value_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken: list[Settings] = []

    def execute(settings: Settings, model: Any, data: Any, *, command: str, events: Events) -> Diagnosis:
        taken.append(settings)
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diagnose.pipeline.execute", execute)
    words = [f"{option} {value}".split() for text in advised() for option, value in NAMED.findall(text) if value]
    assert len(words) >= 6
    for option in words:
        assert cli.main(["softmax", "--data", "iris", *option]) == 130
    assert len(taken) == len(words)


@pytest.mark.parametrize(("samples", "rows"), [(64, 90), (64, 130), (64, 5000), (20, 24), (20, 31), (12, 5000)])
def test_more_samples_are_more_and_no_more_than_there_are(samples: int, rows: int) -> None:
    """Before, 65 were advised where 64 were used."""
    actions = [f.action for spread in (0.5, 0.8, 1.2) for f in noisy(samples, rows, spread) if "--samples" in f.action]
    assert actions
    for text in actions:
        wanted = int(NAMED.findall(text)[0][1])
        assert wanted <= rows
        assert wanted == rows or wanted >= 1.5 * samples
        assert ("(all rows)" in text) == (wanted == rows)


def test_where_all_rows_were_used_more_are_to_be_collected() -> None:
    (finding,) = noisy(12, 12)
    assert finding.code == "too-few-samples"
    assert "--samples" not in finding.action
    assert "collect more rows" in finding.action


def test_one_command_is_advised() -> None:
    ratios = ([2.0, 0.6], [2.0, 0.9, 1.8, 0.6], [3.0, 0.5, 2.9, 2.8], [1.2, 0.8, 1.2, 0.85])
    raced = Raced(32, rows=1000)
    for one in (*map(trained, ratios), trained(ratios[1], decided_by="budget")):
        assert len(NAMED.findall(advice("undecided", one, NOISE, None, raced))) == 1
    # Either of two options left the training out; which one is not known here.
    left_out = NAMED.findall(advice("undecided", OFF, NOISE, None, raced))
    assert [option for option, _ in left_out] == ["--no-training", "--skip"]


def test_seeds_that_tell() -> None:
    wide = trained([1.0] * 4, speedup=1.2, speedup_interval=(1.2 ** (1 - 2.5), 1.2 ** (1 + 2.5)))
    assert seeds_that_tell(wide) == 25
    near = trained([1.0] * 4, speedup=1.2, speedup_interval=(1.2 ** (1 - 1.01), 1.2 ** (1 + 1.01)))
    assert seeds_that_tell(near) == 6
    # A tie: half of the interval is twice the room within [0.8, 1.25].
    tie = trained([1.0] * 4, speedup=1.0, speedup_interval=(1.25**-2, 1.25**2))
    assert seeds_that_tell(tie) == 16
    assert seeds_that_tell(replace(wide, speedup=None)) is None
    assert seeds_that_tell(replace(wide, speedup_interval=None)) is None
    assert seeds_that_tell(trained([1.5, 1.6])) == 4
