"""Built-in models: their size follows the data, their weights the seed, and nothing global moves."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diagnose.errors import InputError
from diagnose.inputs import open_task
from diagnose.inputs.models.catalogue import CLASSES, NETWORKS, Network
from diagnose.inputs.models.find import open_model
from diagnose.inputs.models.loaded import Loaded
from diagnose.inputs.models.networks import build
from diagnose.inputs.models.resnet import DEVIATION, MEAN
from diagnose.settings import Settings

SHAPES: dict[str, tuple[int, ...]] = {
    "logreg": (7,),
    "softmax": (7,),
    "mlp": (7,),
    "cnn": (3, 9, 5),
    "resnet20": (3, 8, 9),
    "gpt2-mini": (),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_follow_the_seed_alone(name: str) -> None:
    torch.manual_seed(11)
    before, other = torch.random.get_rng_state(), random.getstate()
    models = [build(NETWORKS[name], SHAPES[name], 4, seed) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert other == random.getstate()
    first, again, third = (torch.cat([p.flatten() for p in m.parameters()]) for m in models)
    assert torch.equal(first, again)
    assert torch.equal(first, third) == (NETWORKS[name].family == "linear")
    assert not any(module.training for module in models[0].modules())


@pytest.mark.parametrize("name", ["logreg", "softmax"])
def test_linear_models_start_at_zero_without_bias(name: str) -> None:
    model = build(NETWORKS[name], (7,), 4, 3)
    assert [tuple(p.shape) for p in model.parameters()] == [(4, 7)]
    assert not any(p.any() for p in model.parameters())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (2, 3, 5), (1, 1, 1), (3, 9, 14)])
def test_the_convolutional_net_takes_images_of_any_size(shape: tuple[int, ...]) -> None:
    model = build(NETWORKS["cnn"], shape, 10, 0)
    assert model(torch.rand(2, *shape)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) < 20_000 or shape == (3, 9, 14)


def test_the_language_model_has_the_promised_size() -> None:
    model: Any = build(NETWORKS["gpt2-mini"], (), 0, 0)
    assert sum(p.numel() for p in model.parameters()) == 891_776
    assert (model.config.vocab_size, model.config.n_positions) == (257, 512)
    assert not any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.modules())


@pytest.mark.parametrize(("shape", "classes"), [((3, 8, 8), 4), ((3, 32, 32), 10), ((3, 9, 15), 2)])
def test_resnet20_takes_colour_images_of_any_size(shape: tuple[int, ...], classes: int) -> None:
    model = build(NETWORKS["resnet20"], shape, classes, 0)
    assert model(torch.rand(2, *shape)).shape == (2, classes)
    assert len(model.state_dict()) == 19 * 6 + 2  # 19 convolutions, each with a batch norm; one linear layer
    assert torch.equal(model.double()(torch.zeros(1, *shape).double()), model(torch.zeros(1, *shape).double()))


@pytest.mark.parametrize(("shape", "what"), [((1, 28, 28), "3 channels, these have 1"), ((3, 7, 9), "these have 7×9")])
def test_resnet20_refuses_other_images(shape: tuple[int, ...], what: str) -> None:
    with pytest.raises(InputError, match=what):
        build(NETWORKS["resnet20"], shape, 10, 0)


def test_resnet20_standardises_pixels_and_pads_its_shortcuts_evenly() -> None:
    model: Any = build(NETWORKS["resnet20"], (3, 8, 8), 10, 0)
    seen: list[torch.Tensor] = []
    model.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    pixels = torch.rand(2, 3, 8, 8)
    model(pixels)
    expected = torch.stack([(pixels[:, c] - m) / s for c, m, s in zip(range(3), MEAN, DEVIATION, strict=True)], 1)
    assert torch.allclose(seen[0], expected, atol=1e-6)
    block = model.layer2[0]
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.rand(1, 16, 5, 6)
    y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_resnet20_trained_on_cifar10_has_its_accuracy(models_folder: Path, data_folder: Path) -> None:
    path = models_folder / "resnet20-cifar10" / "resnet20.safetensors"
    opened = open_model(str(path), Settings(architecture="resnet20"))
    assert isinstance(opened, Loaded)
    data = np.load(data_folder / "cifar10_7k.npz")
    images = torch.from_numpy(data["x_test"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        found = torch.cat([opened.module(piece.float() / 255).argmax(1) for piece in torch.chunk(images, 8)])
    assert (found.numpy() == data["y_test"].ravel()).mean() == pytest.approx(0.8165, abs=1e-9)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_the_list_gives_the_sizes_that_models_have(network: Network) -> None:
    if network.on.startswith("on "):
        model = open_task(network.name, network.on.removeprefix("on "), Settings())[0].model
    else:
        model = build(network, (3, 32, 32), CLASSES, 0)
    assert sum(p.numel() for p in model.parameters()) == network.parameters


@pytest.mark.parametrize(
    ("model", "data", "loss", "parameters"),
    [
        ("logreg", "breast-cancer", None, 30),
        ("softmax", "wine", None, 39),
        ("mlp", "diabetes", "squared", 10 * 64 + 64 + 64 * 64 + 64 + 65),
        ("mlp", "breast-cancer", "logistic", 30 * 64 + 64 + 64 * 64 + 64 + 65),
        ("cnn", "digits", None, 9_978),
    ],
)
def test_sizes_follow_the_data(model: str, data: str, loss: str | None, parameters: int) -> None:
    opened, _ = open_task(model, data, Settings(loss=loss))
    assert sum(p.numel() for p in opened.model.parameters()) == parameters


@pytest.mark.parametrize("name", ["hf:gpt2", "model.pt2", "folder/model.gguf", "model.onnx"])
def test_models_of_later_versions_are_refused_as_such(name: str) -> None:
    with pytest.raises(InputError) as refused:
        open_model(name, Settings())
    assert refused.value.where == "not available in this version"


def test_an_unknown_model_gets_the_nearest_or_all_names() -> None:
    with pytest.raises(InputError) as near:
        open_model("sofmax", Settings())
    assert near.value.hint == "did you mean `softmax`?"
    with pytest.raises(InputError) as far:
        open_model("xyz", Settings())
    assert far.value.hint == "use one of logreg, softmax, mlp, cnn, resnet20, gpt2-mini"


def test_a_missing_file_gets_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(InputError) as near:
        open_model(str(tmp_path / "modle.pt"), Settings())
    assert (near.value.what, near.value.hint) == ("no such file", f"did you mean `{tmp_path / 'model.pt'}`?")
    with pytest.raises(InputError, match="no such file") as far:
        open_model("nowhere/at/all", Settings())
    assert far.value.hint == "check the path"


@pytest.mark.parametrize("word", ["", " ", "x" * 5000, "a/" + "x" * 5000, "nul\0", "nul\0/a.pt", ":", "a:", "..:b"])
def test_words_that_name_nothing_are_refused(word: str) -> None:
    with pytest.raises(InputError, match=r"unknown model|no such file|no such model"):
        open_model(word, Settings())


@pytest.mark.parametrize("word", ["logreg", "gpt2-mini", "my.module:factory"])
def test_architecture_means_nothing_for_names_and_factories(word: str) -> None:
    with pytest.raises(InputError) as refused:
        open_model(word, Settings(architecture="resnet20"))
    assert (refused.value.where, refused.value.hint) == ("--architecture", "leave it out")
