"""The fingerprint tells apart what would be measured differently, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from diagnose.inputs.fingerprint import fingerprint
from diagnose.inputs.models.pretrained import open_folder
from diagnose.settings import Settings
from tests.transformers_cases import BY_NAME, CASES, Case

ROWS = (torch.ones(2, 3), torch.tensor([0, 1]))


def of(model: nn.Module) -> str:
    return fingerprint(model, ROWS)


def small(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    shape = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 20, "n_positions": 16, **settings}
    model: nn.Module = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape))
    return model


def test_the_same_weights_used_otherwise_are_another_model() -> None:
    """Heads, activation and a scale leave every tensor as it is."""
    variants = [small(), small(n_head=1), small(activation_function="relu"), small(scale_attn_weights=False)]
    assert len({of(model) for model in variants}) == len(variants)
    assert of(small()) == of(small())


@dataclass
class Shape:
    heads: int


class Own(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        ((1, 2), (1, 3)),
        ({"a": 1}, {"a": 2}),
        (F.gelu, F.relu),
        (Shape(1), Shape(2)),
        (Namespace(a=1), Namespace(a=2)),
        (nn.GELU, nn.ReLU),
        (nn.GELU(), nn.ReLU()),
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
    ],
)
def test_attributes_count(one: Any, other: Any) -> None:
    assert of(Own(one)) == of(Own(one))
    assert of(Own(one)) != of(Own(other))


def test_mode_and_hooks_do_not_count() -> None:
    model = Own(1)
    before = of(model)
    model.train(not model.training).register_forward_hook(lambda *arguments: None)
    assert of(model) == before


def test_the_source_of_a_users_class_counts(tmp_path: Path) -> None:
    """In two processes, as between an interrupted run and the next."""
    program = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); from mine import Net\n"
        "from diagnose.inputs.fingerprint import fingerprint\n"
        "print(fingerprint(Net(), (torch.ones(2), torch.ones(2))))"
    )
    body = "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x * {}\n"
    found = []
    for factor in (1, 1, 2):
        (tmp_path / "mine.py").write_text(body.format(factor))
        command = [sys.executable, "-B", "-c", program, str(tmp_path)]
        found.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_model_of_the_tests_has_one(case: Case) -> None:
    assert of(case.model()) == of(case.model())


def test_the_place_of_a_folder_does_not_count(tmp_path: Path) -> None:
    model: Any = BY_NAME["gpt2"].model()
    found = []
    for name in ("one", "two"):
        model.save_pretrained(tmp_path / name)
        found.append(of(open_folder(tmp_path / name, Settings()).module))
    assert found[0] == found[1]
