"""Saving: what is read again is equal bit for bit, ties included; what could not be built again is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import diagnose
from diagnose.errors import InputError
from diagnose.inputs.models.catalogue import NETWORKS
from diagnose.inputs.models.networks import build
from diagnose.inputs.models.save import write_built_in
from tests.diagnose.inputs.models.test_checkpoints import moved, opened, same, tiny
from tests.diagnose.inputs.models.test_pretrained import FAMILIES, ties

SHAPES: dict[str, tuple[int, ...]] = {
    "logreg": (7,),
    "softmax": (7,),
    "mlp": (7,),
    "cnn": (2, 9, 14),
    "resnet20": (3, 8, 8),
    "gpt2-mini": (),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_built_in_model_comes_back(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    model = moved(build(NETWORKS[name], SHAPES[name], 1 if name == "logreg" else 3, 2)).to(dtype)
    diagnose.save(model, tmp_path / "x.pt")
    found = opened(tmp_path / "x.pt")
    assert same(found.module, model.state_dict())
    assert type(found.module) is type(model)
    assert str(found.module) == str(model)
    assert os.listdir(tmp_path) == ["x.pt"]
    diagnose.save(found.module, str(tmp_path / "y.pt"))
    assert same(opened(tmp_path / "y.pt").module, model.state_dict())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_transformers_comes_back_with_its_ties(tmp_path: Path, name: str) -> None:
    torch.manual_seed(3)
    model: Any = moved(FAMILIES[name]())
    model.config._name_or_path = "/somewhere/on/this/machine"
    model.config.architectures = None
    diagnose.save(model, tmp_path / "x.pt")
    found = opened(tmp_path / "x.pt")
    assert same(found.module, model.state_dict())
    assert ties(found.module) == ties(model)
    assert type(found.module) is type(model)
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    assert content.keys() == {"architecture", "config", "state_dict"}
    assert content["architecture"] == type(model).__name__
    assert isinstance(content["config"], dict)
    assert b"/somewhere" not in (tmp_path / "x.pt").read_bytes()


class Other(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


class Child(transformers.GPT2LMHeadModel):  # type: ignore[no-untyped-call]
    """A class of the user's that transformers does not know."""


def changed() -> nn.Module:
    model: Any = build(NETWORKS["mlp"], (7,), 3, 0)
    model[1] = nn.Tanh()
    return model  # type: ignore[no-any-return]


def grown() -> nn.Module:
    model: Any = tiny()
    model.extra = nn.Linear(2, 2)
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (Other(), "Other is no built-in model and none of transformers"),
        (nn.Linear(3, 2), "Linear is no built-in model"),
        (Child(tiny().config), "Child is no class of transformers itself"),
        (changed(), "a mlp that was changed"),
        (grown(), "a GPT2LMHeadModel that was changed"),
        (transformers.GPT2Model(tiny().config), "GPT2Model has no head"),
    ],
)
def test_what_could_not_be_built_again_is_refused(tmp_path: Path, model: nn.Module, what: str) -> None:
    with pytest.raises(InputError) as error:
        diagnose.save(model, tmp_path / "x.pt")
    assert what in error.value.what
    assert "package.module:factory" in error.value.hint or "architecture" in error.value.hint
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    model = build(NETWORKS["logreg"], (2,), 1, 0)
    os.mkfifo(tmp_path / "pipe")
    for path, what in (
        (tmp_path, "a folder"),
        (tmp_path / "nowhere" / "x.pt", "no such folder"),
        (tmp_path / "x.safetensors", "holds no architecture"),
        (tmp_path / ("x" * 250), "the file cannot be written"),
        (tmp_path / "pipe", "no regular file"),
        (tmp_path / "a\0b", "no name of a file"),
    ):
        with pytest.raises(InputError, match=what):
            diagnose.save(model, path)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    model = build(NETWORKS["logreg"], (2,), 1, 0)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.pt").symlink_to(tmp_path / "folder" / "x.pt")
    diagnose.save(model, tmp_path / "link.pt")
    assert (tmp_path / "link.pt").is_symlink()
    assert same(opened(tmp_path / "folder" / "x.pt").module, model.state_dict())


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pt"
    first = build(NETWORKS["softmax"], (2,), 3, 0)
    diagnose.save(first, path)

    def fails(content: object, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(KeyboardInterrupt):
        diagnose.save(moved(build(NETWORKS["softmax"], (2,), 3, 0)), path)
    assert os.listdir(tmp_path) == ["x.pt"]
    assert same(opened(path).module, first.state_dict())


def test_the_same_built_in_model_may_be_written_twice_another_only_fresh(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    network = NETWORKS["resnet20"]
    first = write_built_in(network, path, 0, fresh=False)
    before = path.read_bytes()
    write_built_in(network, path, 0, fresh=False)
    assert path.read_bytes() == before
    with pytest.raises(InputError) as error:
        write_built_in(network, path, 1, fresh=False)
    assert "--fresh" in error.value.hint
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.pt"]
    assert same(opened(path).module, first.state_dict())
    third = write_built_in(network, path, 1, fresh=True)
    assert same(opened(path).module, third.state_dict())
    assert not same(first, third.state_dict())
