"""Factories: imported from the working folder, seeded, and every failure told by its place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.diagnose.inputs.models.test_checkpoints import opened, refused, same

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

def model():
    return Net().train()

def number():
    return 3

def failing():
    return 1 / 0

def leaving():
    raise SystemExit(3)

def parallel():
    return nn.DataParallel(model())

constant = 5
instance = Net()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with modules; those imported from it are forgotten afterwards."""
    (tmp_path / "made_here").mkdir()
    (tmp_path / "made_here" / "__init__.py").write_text("")
    (tmp_path / "made_here" / "nets.py").write_text(CODE)
    (tmp_path / "made_here" / "wrong.py").write_text("import torch\nx = 1\nx.y\n")
    (tmp_path / "made_here" / "needs.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "made_here" / "syntax.py").write_text("x = 1\ndef f(:\n")
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("made_here"):
            del sys.modules[name]


def test_a_factory_of_the_working_folder_follows_the_seed(here: Path) -> None:
    path, state = list(sys.path), torch.random.get_rng_state()
    first, again, third = (opened("made_here.nets:model", seed=seed) for seed in (1, 1, 2))
    assert same(first.module, again.module.state_dict())
    assert not same(first.module, third.module.state_dict())
    assert sys.path == path
    assert torch.equal(state, torch.random.get_rng_state())
    assert (first.name, first.form, first.folder) == ("made_here.nets:model", "Net made with seed 1", None)
    assert type(opened("made_here.nets:Net").module).__name__ == "Net"
    inside = opened("made_here.nets:parallel", seed=1)
    assert same(inside.module, first.module.state_dict())
    assert inside.form == first.form


@pytest.mark.parametrize(
    ("word", "what", "where"),
    [
        ("away_from_here:f", "no module `away_from_here`", ""),
        ("made_here.away:f", "no module `made_here.away`", ""),
        ("made_here.needs:f", "the module cannot be imported", "nothing_of_this_name"),
        ("made_here.wrong:f", "the module cannot be imported", "wrong.py line 3"),
        ("made_here.syntax:f", "the module cannot be imported", "syntax.py line 2"),
        ("made_here.nets:absent", "no `absent` in made_here.nets", ""),
        ("made_here.nets:constant", "not a function: a int", ""),
        ("made_here.nets:instance", "not a function: a Net", ""),
        ("made_here.nets:number", "the factory returns a int", ""),
        ("made_here.nets:failing", "the factory fails", "ZeroDivisionError: division by zero, nets.py line 17"),
        ("made_here.nets:leaving", "the factory fails", "SystemExit: 3, nets.py line 20"),
        ("torch.nn:Linear", "the factory fails", "TypeError"),
    ],
)
def test_every_failure_names_its_place(here: Path, word: str, what: str, where: str) -> None:
    path = list(sys.path)
    error = refused(word)
    assert error.what == what
    assert error.where.startswith(word)
    assert where in error.where
    assert str(here) not in f"{error}{error.hint}"
    assert sys.path == path
