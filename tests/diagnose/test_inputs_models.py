"""Built-in models: their size follows the data, their weights the seed, and nothing global moves."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from diagnose.errors import InputError
from diagnose.inputs import open_task
from diagnose.inputs.models.networks import NETWORKS, build, find
from diagnose.settings import Settings

SHAPES: dict[str, tuple[int, ...]] = {
    "logreg": (7,),
    "softmax": (7,),
    "mlp": (7,),
    "cnn": (3, 9, 5),
    "gpt2-mini": (),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_follow_the_seed_alone(name: str) -> None:
    torch.manual_seed(11)
    before, other = torch.random.get_rng_state(), random.getstate()
    models = [build(find(name), SHAPES[name], 4, seed) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert other == random.getstate()
    first, again, third = (torch.cat([p.flatten() for p in m.parameters()]) for m in models)
    assert torch.equal(first, again)
    assert torch.equal(first, third) == (find(name).family == "linear")
    assert not any(module.training for module in models[0].modules())


@pytest.mark.parametrize("name", ["logreg", "softmax"])
def test_linear_models_start_at_zero_without_bias(name: str) -> None:
    model = build(find(name), (7,), 4, 3)
    assert [tuple(p.shape) for p in model.parameters()] == [(4, 7)]
    assert not any(p.any() for p in model.parameters())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (2, 3, 5), (1, 1, 1), (3, 9, 14)])
def test_the_convolutional_net_takes_images_of_any_size(shape: tuple[int, ...]) -> None:
    model = build(find("cnn"), shape, 10, 0)
    assert model(torch.rand(2, *shape)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) < 20_000 or shape == (3, 9, 14)


def test_the_language_model_has_the_promised_size() -> None:
    model: Any = build(find("gpt2-mini"), (), 0, 0)
    assert sum(p.numel() for p in model.parameters()) == 891_776
    assert (model.config.vocab_size, model.config.n_positions) == (257, 512)
    assert not any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.modules())


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


@pytest.mark.parametrize(
    "name", ["model.pt", "a.safetensors", "hf:gpt2", "my.module:factory", "some/folder", "resnet20", "config.json"]
)
def test_models_of_later_versions_are_refused_as_such(name: str) -> None:
    with pytest.raises(InputError) as refused:
        find(name)
    assert refused.value.where == "not available in this version"


def test_an_unknown_model_gets_the_nearest_or_all_names() -> None:
    with pytest.raises(InputError) as near:
        find("sofmax")
    assert near.value.hint == "did you mean `softmax`?"
    with pytest.raises(InputError) as far:
        find("xyz")
    assert far.value.hint == "use one of logreg, softmax, mlp, cnn, gpt2-mini"
