"""Pixels in every type and layout that they come in, held against the same images as bytes in NCHW."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diagnose import save
from diagnose.errors import InputError
from diagnose.inputs import open_task
from diagnose.inputs.data import catalogue, pixels
from diagnose.inputs.data.tables import Table
from diagnose.inputs.models.catalogue import NETWORKS
from diagnose.inputs.models.networks import build
from diagnose.inputs.opening import Opened
from diagnose.settings import Settings
from estimators import Problem

BYTES = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
BYTES[0, 0, 0, :2] = 0, 255
LABELS = np.arange(6) % 3
UNIT = torch.from_numpy(BYTES / 255.0)


def saved(folder: Path, x: Any, **more: Any) -> str:
    np.savez(folder / "x.npz", x=x, y=np.arange(len(x)) % 3, **more)
    return str(folder / "x.npz")


def inputs(task: Opened) -> torch.Tensor:
    assert isinstance(task.samples, tuple)
    return task.samples[0]


@pytest.fixture
def network(tmp_path: Path) -> str:
    """A resnet20 of a file, which standardises pixels of [0, 1]."""
    save(build(NETWORKS["resnet20"], (3, 8, 8), 3, 0), tmp_path / "m.pt")
    return str(tmp_path / "m.pt")


INTEGERS = ["uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOATS = ["float16", "float32", "float64"]


@pytest.mark.parametrize("kind", INTEGERS + FLOATS)
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_bytes_of_any_type_are_the_same_images(tmp_path: Path, network: str, kind: str, last: bool) -> None:
    x = (BYTES.transpose(0, 2, 3, 1) if last else BYTES).astype(kind)
    for model in (network, "resnet20"):
        task, _ = open_task(model, saved(tmp_path, x), Settings(dtype="float64"))
        torch.testing.assert_close(inputs(task), UNIT, rtol=1e-12, atol=0)
        assert "pixels scaled to [0, 1]" in task.understood[1]
        assert f"layout {'NHWC' if last else 'NCHW'}" in task.understood[1]


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float32])
def test_tensors_are_read_as_arrays_of_a_file(network: str, kind: torch.dtype) -> None:
    x = torch.from_numpy(BYTES).to(kind)
    for images in (x, x.permute(0, 2, 3, 1)):
        task, _ = open_task(network, (images, torch.from_numpy(LABELS)), Settings(dtype="float64"))
        torch.testing.assert_close(inputs(task), UNIT, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", FLOATS)
def test_pixels_in_0_1_stay(tmp_path: Path, network: str, kind: str) -> None:
    x = (BYTES / 255.0).astype(kind)
    task, _ = open_task(network, saved(tmp_path, x), Settings(dtype="float64"))
    torch.testing.assert_close(inputs(task), torch.from_numpy(x.astype(np.float64)), rtol=1e-12, atol=0)
    assert "divided" not in task.understood[1]


@pytest.mark.parametrize(
    ("x", "span"),
    [
        (BYTES.astype(np.uint16) * 257, "from 0 to 65535"),
        (BYTES.astype(np.int64) - 128, "from -128 to 127"),
        (BYTES / 255.0 * 254.5, "from 0 to 254.5"),
        ((BYTES / 255.0 - 0.5) / 0.25, "from -2 to 2"),
    ],
    ids=["16 bit", "signed", "resized", "standardised"],
)
def test_other_pixels_are_refused_by_a_model_that_standardises(tmp_path: Path, network: str, x: Any, span: str) -> None:
    for model in (network, "resnet20"):
        with pytest.raises(InputError, match=f"pixels {span}, but resnet20 takes bytes or") as refused:
            open_task(model, saved(tmp_path, x), Settings())
        assert refused.value.hint == "save them as uint8, or scaled to [0, 1]"
    task, _ = open_task("cnn", saved(tmp_path, x), Settings(dtype="float64"))
    torch.testing.assert_close(inputs(task), torch.from_numpy(x.astype(np.float64)))
    assert f"pixels as in the file, {span}" in task.understood[1]


def test_the_trained_network_is_as_good_in_every_type(models_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    data = np.load(data_folder / "cifar10_7k.npz")
    images, labels = data["x_test"][:16], data["y_test"].ravel()[:16]
    weights = str(models_folder / "resnet20-cifar10" / "resnet20.safetensors")
    found = []
    for kind in ("uint8", "int64", "float32"):
        np.savez(tmp_path / "x.npz", x=images.astype(kind), y=labels)
        task, _ = open_task(weights, str(tmp_path / "x.npz"), Settings(architecture="resnet20"))
        found.append(Problem(task.model, task.samples).loss())
    assert found[0] < 1
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)


def test_both_parts_of_a_file_are_scaled_alike(tmp_path: Path) -> None:
    """The test part alone is so dark that it would pass for pixels in [0, 1]."""
    more: dict[str, Any] = {"x_test": np.ones((2, 3, 8, 8), dtype=np.int64), "y_test": np.array([0, 1])}
    np.savez(tmp_path / "x.npz", x_train=BYTES.astype(np.int64), y_train=LABELS, **more)
    table = catalogue.load(tmp_path / "x.npz")
    assert isinstance(table, Table)
    assert (table.divisor, table.rows, table.tests) == (255, 6, 2)
    task, _ = open_task("cnn", tmp_path / "x.npz", Settings())
    assert isinstance(task.held_out, tuple)
    torch.testing.assert_close(task.held_out[0], torch.full((2, 3, 8, 8), 1 / 255))


@pytest.mark.parametrize("kind", ["bool", "int64"])
def test_masks_of_zeros_and_ones_are_in_0_1(tmp_path: Path, kind: str) -> None:
    task, _ = open_task("cnn", saved(tmp_path, (BYTES > 99).astype(kind)), Settings())
    assert torch.equal(inputs(task), torch.from_numpy(BYTES > 99).float())


# -- layouts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 16, 4, 4), (5, 16, 4, 4)),
        ((5, 3, 4, 4), (5, 3, 4, 4)),
        ((5, 1, 3, 3), (5, 1, 3, 3)),
        ((5, 4, 4, 4), (5, 4, 4, 4)),
        ((5, 64, 1, 1), (5, 64, 1, 1)),
        ((5, 3, 9, 4), (5, 3, 9, 4)),
        ((5, 4, 4, 3), (5, 3, 4, 4)),
        ((5, 28, 28, 1), (5, 1, 28, 28)),
        ((5, 16, 12, 4), (5, 4, 16, 12)),
        ((5, 8, 6), (5, 1, 8, 6)),
    ],
)
def test_the_axis_of_the_channels(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert pixels.channels_first(np.zeros(shape))[0].shape == expected


def convolution(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))


@pytest.mark.parametrize(
    ("shape", "channels", "layout"),
    [
        ((6, 16, 4, 4), 16, "NCHW"),
        ((6, 16, 4, 4), 4, "NHWC"),
        ((6, 3, 4, 4), 3, "NCHW"),
        ((6, 3, 4, 4), 4, "NHWC"),
        ((6, 4, 4, 3), 3, "NHWC"),
        ((6, 4, 4, 3), 4, "NCHW"),
        ((6, 12, 12, 8), 8, "NHWC"),
        ((6, 2, 12, 12), 2, "NCHW"),
    ],
)
def test_the_model_says_which_axis_is_the_channels(
    tmp_path: Path, shape: tuple[int, ...], channels: int, layout: str
) -> None:
    x = np.random.default_rng(0).random(shape)
    model = convolution(channels).double()
    task, _ = open_task(model, saved(tmp_path, x), Settings())
    wanted = torch.from_numpy(x).permute(0, 3, 1, 2) if layout == "NHWC" else torch.from_numpy(x)
    assert torch.equal(inputs(task), wanted)
    assert task.understood[1].endswith(f"layout {layout}")


@pytest.mark.parametrize(
    ("shape", "said"),
    [((6, 4, 4, 4), "layout NCHW (NHWC would fit too)"), ((6, 4, 4, 3), "layout NHWC (NCHW would fit too)")],
)
def test_what_nothing_tells_is_said(tmp_path: Path, shape: tuple[int, ...], said: str) -> None:
    task, _ = open_task("cnn", saved(tmp_path, np.random.default_rng(0).random(shape)), Settings())
    assert said in task.understood[1]


def test_a_resnet20_takes_the_layout_with_three_channels(tmp_path: Path, network: str) -> None:
    x = np.random.default_rng(0).random((6, 8, 8, 3))
    task, _ = open_task(network, saved(tmp_path, x.transpose(0, 3, 1, 2)), Settings(dtype="float64"))
    other, _ = open_task(network, saved(tmp_path, x), Settings(dtype="float64"))
    assert torch.equal(inputs(task), inputs(other))
