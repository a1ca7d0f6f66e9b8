"""Models and data that Python hands over: cast to fit, drawn, checked, and left as they were."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from diagnose.errors import InputError
from diagnose.inputs import open_task
from diagnose.settings import Settings

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2] * 4)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).train()


def pair(samples: Any) -> tuple[Tensor, Tensor]:
    assert isinstance(samples, tuple)
    return samples


def test_the_module_is_the_users_own_and_untouched() -> None:
    model = net()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    random_state = torch.random.get_rng_state()
    opened, resolved = open_task(model, (X, Y), Settings())
    assert opened.model is model
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(random_state, torch.random.get_rng_state())
    assert (opened.model_name, opened.data_name, opened.family) == ("Sequential", "tensors", "network")
    assert (resolved.dtype, resolved.device, resolved.loss) == ("float32", "cpu", "cross-entropy")


def test_a_number_format_that_was_asked_for_converts_a_copy() -> None:
    model = net()
    opened, resolved = open_task(model, (X, Y), Settings(dtype="float64"))
    assert opened.model is not model
    assert next(model.parameters()).dtype == torch.float32
    assert next(opened.model.parameters()).dtype == torch.float64
    assert pair(opened.samples)[0].dtype == torch.float64
    assert resolved.dtype == "float64"


def test_a_module_keeps_its_own_number_format() -> None:
    opened, resolved = open_task(net().double(), (X.numpy(), Y.tolist()), Settings())
    assert resolved.dtype == "float64"
    assert pair(opened.samples)[0].dtype == torch.float64


def test_targets_are_read_for_the_loss() -> None:
    halves = torch.tensor([0.0, 1.0] * 6)
    linear = nn.Linear(3, 1)
    opened, _ = open_task(linear, (X, halves), Settings(loss="logistic"))
    assert set(pair(opened.samples)[1].tolist()) == {-1.0, 1.0}
    assert opened.family == "linear"
    opened, _ = open_task(linear, (X, Y), Settings(loss="squared"))
    assert pair(opened.samples)[1].dtype == torch.float32
    opened, _ = open_task(nn.Linear(3, 3), (X, Y.float()), Settings())
    assert pair(opened.samples)[1].dtype == torch.int64

    def twice(output: Tensor, targets: Tensor) -> Tensor:
        return 2 * (output - targets).square().sum(1)

    opened, resolved = open_task(linear, (X, X[:, :1]), Settings(loss=twice))
    assert opened.loss is twice
    assert resolved.loss == "twice"


def test_a_loader_is_read_whole_in_an_order_that_follows_the_seed() -> None:
    data = TensorDataset(torch.arange(10.0)[:, None], torch.arange(10) % 2)
    plain, _ = open_task(nn.Linear(1, 2), DataLoader(data, batch_size=4), Settings())
    assert pair(plain.samples)[0].flatten().tolist() == list(range(10))
    model = nn.Linear(1, 2)
    before = torch.random.get_rng_state()
    mixed = [
        pair(open_task(model, DataLoader(data, batch_size=4, shuffle=True), Settings(seed=s))[0].samples)[0]
        for s in (0, 0, 1)
    ]
    assert torch.equal(mixed[0], mixed[1])
    assert not torch.equal(mixed[0], mixed[2])
    assert sorted(mixed[0].flatten().tolist()) == list(range(10))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_loader_of_mappings() -> None:
    rows = [{"x": torch.ones(3) * i, "labels": torch.tensor(i % 2)} for i in range(5)]

    class Named(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    loader: DataLoader[Any] = DataLoader(rows, batch_size=2)  # type: ignore[arg-type]
    opened, _ = open_task(Named(3, 2), loader, Settings())
    assert isinstance(opened.samples, dict)
    assert opened.samples["x"].shape == (5, 3)
    assert opened.samples["labels"].tolist() == [0, 1, 0, 1, 0]
    assert opened.family == "network"


def test_a_subset_of_tensors_is_drawn() -> None:
    opened, resolved = open_task(nn.Linear(3, 3), (X, Y), Settings(samples=5))
    x, y = pair(opened.samples)
    assert (len(x), len(y), opened.rows, resolved.samples) == (5, 5, 12, 5)
    where = [int((row == X).all(1).nonzero()[0]) for row in x]
    assert where == sorted(where)
    assert torch.equal(Y[where], y)


def test_tensors_for_a_model_by_name() -> None:
    opened, _ = open_task("softmax", (X, Y * 10), Settings())
    assert pair(opened.samples)[1].tolist() == Y.tolist()
    images = torch.rand(6, 1, 5, 5)
    opened, _ = open_task("cnn", (images, Y[:6]), Settings())
    assert torch.equal(pair(opened.samples)[0], images)


def test_token_rows_for_the_language_model() -> None:
    tokens = torch.randint(0, 256, (4, 10), generator=torch.Generator().manual_seed(0))
    opened, _ = open_task("gpt2-mini", {"input_ids": tokens, "labels": tokens}, Settings())
    assert isinstance(opened.samples, dict)
    assert torch.equal(opened.samples["input_ids"], tokens)
    with pytest.raises(InputError, match="token 300"):
        open_task("gpt2-mini", {"input_ids": tokens + 300 - tokens, "labels": tokens}, Settings())
    long = torch.zeros(2, 600, dtype=torch.long)
    with pytest.raises(InputError, match="600 tokens"):
        open_task("gpt2-mini", {"input_ids": long, "labels": long}, Settings())


def test_a_module_on_named_data_takes_the_form_that_it_can() -> None:
    flat, _ = open_task(nn.Linear(61, 10), "digits", Settings())
    assert pair(flat.samples)[0].shape == (1797, 61)
    convolution = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10))
    images, _ = open_task(convolution, "digits", Settings(samples=4))
    assert pair(images.samples)[0].shape == (4, 1, 8, 8)


def loader(lengths: list[int]) -> DataLoader[Any]:
    rows = [{"x": torch.ones(length), "labels": torch.tensor(0)} for length in lengths]
    return DataLoader(rows, batch_size=1)  # type: ignore[arg-type]


NAN = X.clone()
NAN[4, 1] = float("nan")
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    ((X, Y[:5]), {}, "different numbers of samples"),
    ((X[:0], Y[:0]), {}, "no samples"),
    ((NAN, Y), {}, "NaN or infinity in the data"),
    ((X, torch.rand(12)), {}, "targets are numbers to predict"),
    ((X, Y), {"loss": "logistic"}, "3 different labels"),
    ({"x": X}, {}, "no labels among the samples"),
    ((X, "abc"), {}, "instead of a tensor"),
    ((X.to_sparse(), Y), {}, "not a dense real tensor"),
    ((X, [["a"]]), {}, "no array of numbers"),
    (X, {}, "data of type Tensor"),
    (12, {}, "data of type int"),
    (loader([3, 4]), {}, "batches of different form"),
    (loader([]), {}, "no samples"),
    ((X, Y), {"max_length": 5}, "only text is cut"),
    ((X, Y), {"features": 5}, "only LIBSVM text"),
]


@pytest.mark.parametrize(("data", "settings", "what"), REFUSED)
def test_objects_that_cannot_be_used(data: Any, settings: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        open_task(net(), data, Settings(**settings))


def test_the_place_of_a_nan_is_named() -> None:
    with pytest.raises(InputError, match="inputs, row 5, column 2"):
        open_task(net(), (NAN, Y), Settings())
    with pytest.raises(InputError, match="inputs, row 5, column 2"):
        open_task("softmax", (NAN.numpy().astype(np.float64), Y.numpy()), Settings())


def test_another_kind_of_model_is_refused() -> None:
    with pytest.raises(InputError, match="model of type dict"):
        open_task({}, "iris", Settings())


def test_a_loss_function_needs_a_module() -> None:
    with pytest.raises(InputError, match="a loss function fits a module of yours only"):
        open_task("mlp", "iris", Settings(loss=lambda output, targets: output))


def test_a_generator_is_no_data() -> None:
    def rows() -> Iterator[Tensor]:
        yield X

    with pytest.raises(InputError, match="data of type generator"):
        open_task(net(), rows(), Settings())
