"""Model files: what fits is loaded bit for bit, what does not is refused with the tensors that differ."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from diagnose.errors import InputError
from diagnose.inputs.models import weights
from diagnose.inputs.models.catalogue import NETWORKS
from diagnose.inputs.models.find import open_model
from diagnose.inputs.models.loaded import Loaded
from diagnose.inputs.models.networks import build
from diagnose.inputs.models.resnet import MEAN
from diagnose.settings import Settings

State = dict[str, Tensor]
SHAPES: dict[str, tuple[int, ...]] = {"logreg": (7,), "softmax": (7,), "mlp": (7,), "resnet20": (3, 8, 8)}


def moved(model: nn.Module) -> nn.Module:
    """The model with no weight left where initialisation puts it."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor += torch.rand(tensor.shape, generator=generator).to(tensor.dtype)
    return model


def built(name: str, seed: int = 1) -> nn.Module:
    return moved(build(NETWORKS[name], SHAPES.get(name, ()), 1 if name == "logreg" else 4, seed))


def tiny(seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    tokens: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    return GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=16, **tokens))


def opened(path: Path | str, **settings: Any) -> Loaded:
    found = open_model(str(path), Settings(**settings))
    assert isinstance(found, Loaded)
    assert not any(module.training for module in found.module.modules())
    return found


def refused(path: Path | str, **settings: Any) -> InputError:
    with pytest.raises(InputError) as error:
        open_model(str(path), Settings(**settings))
    assert "\n" not in f"{error.value}{error.value.hint}"
    return error.value


def same(model: nn.Module, state: State) -> bool:
    return model.state_dict().keys() == state.keys() and all(
        torch.equal(tensor, state[name]) and tensor.dtype == state[name].dtype
        for name, tensor in model.state_dict().items()
    )


@pytest.mark.parametrize("name", [*SHAPES, "gpt2-mini"])
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_bare_state_dict_with_its_architecture(tmp_path: Path, name: str, ending: str) -> None:
    state = built(name).state_dict()
    path = tmp_path / f"x.{ending}"
    if ending == "pt":
        torch.save(state, path)
    else:
        save_file({key: tensor.clone() for key, tensor in state.items()}, path)
    found = opened(path, architecture=name)
    assert same(found.module, state)
    assert found.name == path.name
    assert name in found.form
    error = refused(path)
    assert "without its architecture" in error.what
    assert error.hint == f"its tensors fit `--architecture {name}`"


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "module"])
def test_a_training_checkpoint_in_an_old_format(tmp_path: Path, key: str) -> None:
    state = built("mlp").state_dict()
    content = {key: state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3}
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=False)
    assert same(opened(tmp_path / "x.ckpt", architecture="mlp").module, state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."])
def test_the_prefixes_of_wrappers_are_taken_away(tmp_path: Path, prefix: str) -> None:
    for name, model in (("resnet20", built("resnet20")), ("GPT2LMHeadModel", tiny())):
        state = model.state_dict()
        content: dict[str, Any] = {prefix + key: tensor for key, tensor in state.items()}
        if name == "GPT2LMHeadModel":
            assert isinstance(model, GPT2LMHeadModel)
            content = {"architecture": name, "config": model.config.to_dict(), "state_dict": content}
            torch.save(content, tmp_path / "x.pt")
            assert same(opened(tmp_path / "x.pt").module, state)
        else:
            torch.save(content, tmp_path / "x.pt")
            assert same(opened(tmp_path / "x.pt", architecture=name).module, state)


def test_a_compiled_part_leaves_its_prefix_in_the_middle(tmp_path: Path) -> None:
    state = built("resnet20").state_dict()
    torch.save(
        {key.replace("layer1.0.", "layer1._orig_mod.0._orig_mod."): t for key, t in state.items()}, tmp_path / "x.pt"
    )
    assert same(opened(tmp_path / "x.pt", architecture="resnet20").module, state)


def test_a_prefix_that_is_a_name_of_the_model_stays() -> None:
    tensor = torch.zeros(1)
    kept = weights.unwrapped({"module.a": tensor, "module.module.b": tensor}, ["module.a", "module.b"], "x")
    assert list(kept) == ["module.a", "module.b"]
    assert list(weights.unwrapped({"module.z": tensor}, ["a"], "x")) == ["z"]
    with pytest.raises(InputError, match=r"two tensors for one name: x: a"):
        weights.unwrapped({"a": tensor, "module.a": tensor}, ["a"], "x")


def test_every_tensor_that_differs_is_counted_and_the_first_are_named(tmp_path: Path) -> None:
    state = built("mlp").state_dict()
    wrong = {key: tensor for key, tensor in state.items() if key != "hidden2.bias"}
    wrong.update({"hidden1.bias": torch.zeros(3), "extra": torch.zeros(1), "more": torch.zeros(1)})
    torch.save(wrong, tmp_path / "x.pt")
    error = refused(tmp_path / "x.pt", architecture="mlp")
    assert error.what == "the tensors do not fit mlp"
    assert error.where == (
        "x.pt: hidden1.bias is (3,) in the file, (64,) in the model; hidden2.bias is missing; "
        "extra is not in the model; and 1 more"
    )


def test_batch_norm_may_lack_its_counter_but_not_its_mean(tmp_path: Path) -> None:
    state = built("resnet20").state_dict()
    torch.save({k: t for k, t in state.items() if not k.endswith("num_batches_tracked")}, tmp_path / "x.pt")
    assert same(opened(tmp_path / "x.pt", architecture="resnet20").module, state)
    torch.save({k: t for k, t in state.items() if k != "bn1.running_mean"}, tmp_path / "x.pt")
    assert "bn1.running_mean is missing" in refused(tmp_path / "x.pt", architecture="resnet20").where


@pytest.mark.parametrize("lost", ["bn1.weight", "layer3.2.conv2.weight", "linear.bias"])
def test_a_missing_weight_is_never_left_at_random(tmp_path: Path, lost: str) -> None:
    state = built("resnet20").state_dict()
    torch.save({key: tensor for key, tensor in state.items() if key != lost}, tmp_path / "x.pt")
    assert f"{lost} is missing" in refused(tmp_path / "x.pt", architecture="resnet20").where


def test_the_mean_of_pixels_is_not_rounded_with_the_weights(tmp_path: Path) -> None:
    state = {key: tensor.half() for key, tensor in built("resnet20").state_dict().items()}
    torch.save(state, tmp_path / "x.pt")
    found = opened(tmp_path / "x.pt", architecture="resnet20")
    assert torch.equal(found.module.get_buffer("mean").flatten(), torch.tensor(MEAN))
    assert found.form.endswith("stored as float16")


def test_the_number_format_of_the_file_is_said(tmp_path: Path) -> None:
    for dtype in (torch.bfloat16, torch.float64):
        used = torch.promote_types(dtype, torch.float32)
        for name, model in (("mlp", built("mlp")), ("GPT2LMHeadModel", tiny())):
            state = model.to(dtype).state_dict()
            content: dict[str, Any] = {"architecture": name, "config": {}, "state_dict": state}
            if isinstance(model, GPT2LMHeadModel):
                content["config"] = model.config.to_dict() | {"dtype": "float32"}
            torch.save(content, tmp_path / "x.pt")
            found = opened(tmp_path / "x.pt")
            assert same(found.module, {key: t.to(used) for key, t in state.items()})
            assert f"stored as {str(dtype).removeprefix('torch.')}" in found.form
    torch.save({key: tensor.to(torch.int8) for key, tensor in built("mlp").state_dict().items()}, tmp_path / "x.pt")
    assert "int8" in refused(tmp_path / "x.pt", architecture="mlp").where
    torch.save({**built("mlp").state_dict(), "output.weight": torch.zeros(4, 64, dtype=torch.int8)}, tmp_path / "x.pt")
    assert "output.weight is int8" in refused(tmp_path / "x.pt", architecture="mlp").where
    torch.save({**built("mlp").state_dict(), "output.bias": torch.zeros(4, dtype=torch.complex64)}, tmp_path / "x.pt")
    assert "output.bias is complex64" in refused(tmp_path / "x.pt", architecture="mlp").where


def test_a_file_that_changes_later_changes_no_model(tmp_path: Path) -> None:
    for name, model in (("mlp", built("mlp")), ("gpt2-mini", built("gpt2-mini"))):
        path = tmp_path / f"{name}.safetensors"
        save_file({key: tensor.clone() for key, tensor in model.state_dict().items()}, path)
        found = opened(path, architecture=name)
        with path.open("r+b") as file:
            file.write(b"\0" * path.stat().st_size)
        assert same(found.module, model.state_dict())


def test_a_convolutional_net_needs_the_size_of_its_images(tmp_path: Path) -> None:
    model = moved(build(NETWORKS["cnn"], (2, 9, 14), 3, 0))
    torch.save(model.state_dict(), tmp_path / "x.pt")
    error = refused(tmp_path / "x.pt", architecture="cnn")
    assert "size of its images" in error.what
    assert "diagnose.save" in error.hint


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)


def test_a_pickled_module_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    torch.save(Net(), tmp_path / "x.pt")
    error = refused(tmp_path / "x.pt")
    assert error.what == "a pickled file"
    assert "test_checkpoints.Net" in error.where
    assert "--trust-pickle" in error.hint
    assert "state_dict()" in error.hint
    before = torch.random.get_rng_state()
    found = opened(tmp_path / "x.pt", trust_pickle=True)
    assert isinstance(found.module, Net)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.save(nn.DataParallel(found.module), tmp_path / "y.pt")
    inside = opened(tmp_path / "y.pt", trust_pickle=True)
    assert same(inside.module, found.module.state_dict())
    assert inside.form == found.form
    assert refused(tmp_path / "x.pt", trust_pickle=True, architecture="mlp").hint == "leave it out"


class Command:
    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


def test_what_a_pickle_would_run_is_named(tmp_path: Path) -> None:
    torch.save({"a": Command()}, tmp_path / "x.pt")
    error = refused(tmp_path / "x.pt")
    assert (error.what, "--trust-pickle" in error.hint) == ("a pickled file", True)
    assert f"such as {os.system.__module__}.system" in error.where
    (tmp_path / "y.pkl").write_bytes(pickle.dumps({"w": np.zeros(3)}, protocol=4))
    error = refused(tmp_path / "y.pkl")
    assert error.what == "a pickled file"
    assert error.where == "y.pkl: it holds Python objects, which run code when read"


def test_a_state_dict_beside_pickled_objects_is_read_where_it_is_trusted(tmp_path: Path) -> None:
    state = built("mlp").state_dict()
    torch.save({"model": state, "args": Namespace(lr=1)}, tmp_path / "x.pt")
    assert "argparse.Namespace" in refused(tmp_path / "x.pt", architecture="mlp").where
    assert same(opened(tmp_path / "x.pt", architecture="mlp", trust_pickle=True).module, state)


def test_pickled_objects_that_are_no_module_or_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(Namespace(lr=1), tmp_path / "x.pt")
    assert "it holds a Namespace" in refused(tmp_path / "x.pt", trust_pickle=True).where
    (tmp_path / "passing.py").write_text("import torch\nclass Away(torch.nn.Module): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import passing  # type: ignore[import-not-found]

    torch.save(passing.Away(), tmp_path / "y.pt")
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "passing")
    error = refused(tmp_path / "y.pt", trust_pickle=True)
    assert error.what == "the pickled objects cannot be loaded"
    assert "passing" in error.where
    monkeypatch.chdir(tmp_path)
    assert type(opened("y.pt", trust_pickle=True).module).__name__ == "Away"


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save(built("resnet20").state_dict(), whole)
    old = tmp_path / "old.pt"
    torch.save(built("resnet20").state_dict(), old, _use_new_zipfile_serialization=False)
    safe = tmp_path / "safe.safetensors"
    save_file({"a": torch.zeros(500)}, safe)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("x", "y")
    scripted: Any = torch.jit.script(nn.Linear(2, 2))
    scripted.save(str(tmp_path / "script.pt"))
    made = {
        "empty.pt": b"",
        "text.pt": b"hello\n",
        "cut.pt": whole.read_bytes()[:5000],
        "cutold.pt": old.read_bytes()[:5000],
        "cut.safetensors": safe.read_bytes()[:500],
        "head.safetensors": safe.read_bytes()[:10],
        "pointer.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "pickle.bin": b"\x80\x04K\x01.",
    }
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    expected = {
        "empty.pt": "empty file",
        "text.pt": "no checkpoint",
        "cut.pt": "damaged",
        "cutold.pt": "damaged",
        "cut.safetensors": "a damaged safetensors file",
        "head.safetensors": "a damaged safetensors file",
        "pointer.safetensors": "a pointer to a large file",
        "pickle.bin": "damaged",
        "zip.pt": "a zip file of something else",
        "script.pt": "a TorchScript program",
    }
    for name, what in expected.items():
        for settings in ({}, {"architecture": "mlp", "trust_pickle": True}):
            error = refused(tmp_path / name, **settings)
            assert what in error.what, (name, str(error))
            assert error.where.startswith(name)
            assert error.hint


@pytest.mark.parametrize(
    ("content", "what", "where"),
    [
        ({}, "no state dict", "it holds nothing"),
        ({"state": {}, "param_groups": []}, "the state of an optimizer", ""),
        ({"optimizer": {"state": {}}, "epoch": 1}, "the state of an optimizer", ""),
        ({"epoch": 1, "seed": 2}, "no state dict", "epoch, seed"),
        ({"w": torch.zeros(2), "epoch": 1}, "no state dict", "`epoch` is no tensor"),
        ([1, 2], "no model in the file", "list"),
        ({"architecture": 3, "config": {}, "state_dict": {"w": torch.zeros(2)}}, "the architecture is no name", ""),
        ({"architecture": "mlp", "config": [], "state_dict": {"w": torch.zeros(2)}}, "configuration is no dict", ""),
        ({"architecture": "mlpp", "config": {}, "state_dict": {"w": torch.zeros(2)}}, "unknown architecture", ""),
        ({"architecture": "os.system", "config": {}, "state_dict": {"w": torch.zeros(2)}}, "unknown architecture", ""),
        ({"architecture": "GPT2Model", "config": {}, "state_dict": {"w": torch.zeros(2)}}, "no head", ""),
        ({"architecture": "GPT2LMHeadModel", "state_dict": {"w": torch.zeros(2)}}, "no configuration of GPT2", ""),
        (
            {"architecture": "GPT2LMHeadModel", "config": {"n_layer": "x"}, "state_dict": {"w": torch.zeros(2)}},
            "GPT2LMHeadModel refuses it",
            "n_layer",
        ),
        (
            {"architecture": "GPT2LMHeadModel", "config": {"model_type": "bert"}, "state_dict": {"w": torch.zeros(2)}},
            "a configuration of bert",
            "",
        ),
    ],
)
def test_checkpoints_that_lack_something(tmp_path: Path, content: Any, what: str, where: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    error = refused(tmp_path / "x.pt")
    assert what in error.what, str(error)
    assert where in error.where
    assert error.hint


def test_an_unknown_architecture_gets_the_nearest_name(tmp_path: Path) -> None:
    torch.save(tiny().state_dict(), tmp_path / "x.pt")
    assert refused(tmp_path / "x.pt", architecture="GPT2LMHedModel").hint == "did you mean `GPT2LMHeadModel`?"
    assert refused(tmp_path / "x.pt", architecture="resnet2").hint == "did you mean `resnet20`?"
    assert "built-in name" in refused(tmp_path / "x.pt", architecture="zzz").hint
    assert refused(tmp_path / "x.pt", architecture="zzz").where == "--architecture"
    assert "Auto" not in refused(tmp_path / "x.pt", architecture="AutoModelForCausalLM").hint


def test_a_file_that_names_its_architecture_needs_no_option(tmp_path: Path) -> None:
    model = tiny()
    torch.save(
        {"architecture": "GPT2LMHeadModel", "config": model.config.to_dict(), "state_dict": model.state_dict()},
        tmp_path / "x.pt",
    )
    assert same(opened(tmp_path / "x.pt").module, model.state_dict())
    assert refused(tmp_path / "x.pt", architecture="GPT2LMHeadModel").hint == "leave it out"


def test_a_state_dict_takes_the_config_beside_it(tmp_path: Path) -> None:
    model = tiny()
    torch.save(model.state_dict(), tmp_path / "x.pt")
    error = refused(tmp_path / "x.pt", architecture="GPT2LMHeadModel")
    assert error.what == "no configuration of GPT2LMHeadModel"
    model.config.save_pretrained(tmp_path)
    found = opened(tmp_path / "x.pt", architecture="GPT2LMHeadModel")
    assert same(found.module, model.state_dict())
    assert found.folder == tmp_path
    hint = "name it with `--architecture` with a class of transformers, for the config.json beside it"
    assert refused(tmp_path / "x.pt").hint == hint
    model.save_pretrained(tmp_path)
    assert "`--architecture GPT2LMHeadModel`" in refused(tmp_path / "x.pt").hint


def test_an_ordered_dict_with_metadata_is_a_state_dict(tmp_path: Path) -> None:
    state = nn.Linear(3, 2, bias=False).state_dict()
    assert isinstance(state, OrderedDict)
    torch.save(state, tmp_path / "x.pth")
    assert same(opened(tmp_path / "x.pth", architecture="softmax").module, state)
    assert "weight is (2, 3) in the file, (1, 3)" in refused(tmp_path / "x.pth", architecture="logreg").where
