"""Pixels as the image processors of transformers make them, held against their own rescale and normalize."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diagnose.errors import InputError
from diagnose.inputs.data import arrays
from diagnose.inputs.data.tables import Table
from diagnose.inputs.images import PROCESSOR, standardised
from diagnose.inputs.models.loaded import Loaded
from tests.transformers_cases import vit

BYTES = np.random.default_rng(0).integers(0, 256, (4, 3, 6, 6), dtype=np.uint8)
MEAN, DEVIATION = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
STANDARD = {"image_mean": MEAN, "image_std": DEVIATION}


def pixels(x: Any) -> Table:
    return Table("pixels.npz", x, np.arange(len(x)) % 3, divisor=255.0 if x.dtype == np.uint8 else 1.0)


def loaded(folder: Path, body: Any = None) -> Loaded:
    if body is not None:
        (folder / PROCESSOR).write_text(body if isinstance(body, str) else json.dumps(body))
    return Loaded(vit(), "vit", "", folder)


def wanted(x: Any, body: dict[str, Any]) -> torch.Tensor:
    """What transformers makes of one image after the other."""
    from transformers.image_transforms import normalize, rescale
    from transformers.image_utils import ChannelDimension

    first = ChannelDimension.FIRST
    images = []
    for image in x.astype(np.float64):
        if body.get("do_rescale", True):
            image = rescale(
                image, body.get("rescale_factor", 1 / 255), dtype=np.dtype(np.float64), input_data_format=first
            )
            image = image - 1 if body.get("rescale_offset") else image
        if body.get("do_normalize", True):
            image = normalize(image, body["image_mean"], body["image_std"], input_data_format=first)
        images.append(image)
    return torch.from_numpy(np.stack(images))


@pytest.mark.parametrize(
    "body",
    [
        STANDARD,
        {"image_mean": 0.5, "image_std": 0.25},
        {**STANDARD, "rescale_factor": 1 / 127.5},
        {**STANDARD, "rescale_factor": 1 / 127.5, "rescale_offset": True},
        {**STANDARD, "do_rescale": False},
        {"do_normalize": False},
        {"do_normalize": False, "rescale_factor": 1 / 128},
    ],
)
def test_a_processor_is_followed(tmp_path: Path, body: dict[str, Any]) -> None:
    found, notes = standardised(pixels(BYTES), loaded(tmp_path, body))
    torch.testing.assert_close(found.double(), wanted(BYTES, body), rtol=1e-5, atol=1e-5)
    assert notes == (f"pixels standardised as {PROCESSOR} says",)


def test_pixels_scaled_already_are_the_same_images(tmp_path: Path) -> None:
    folder = loaded(tmp_path, STANDARD)
    scaled, _ = standardised(pixels(BYTES.astype(np.float64) / 255), folder)
    torch.testing.assert_close(scaled, standardised(pixels(BYTES), folder)[0])


def test_without_a_processor_pixels_stay_and_the_line_says_so(tmp_path: Path) -> None:
    found, notes = standardised(pixels(BYTES), loaded(tmp_path))
    torch.testing.assert_close(found, torch.from_numpy(BYTES).float() / 255)
    assert notes == (f"not standardised (no {PROCESSOR})",)
    found, notes = standardised(replace(pixels(BYTES.astype(np.float32)), layout="NCHW"), loaded(tmp_path))
    assert torch.equal(found, torch.from_numpy(BYTES).float())
    assert notes == ("pixels as in the file, from 0 to 255", f"not standardised (no {PROCESSOR})")


def test_bytes_in_floating_point_are_bytes(tmp_path: Path) -> None:
    folder = loaded(tmp_path, STANDARD)
    found, notes = standardised(pixels(BYTES.astype(np.float32)), folder)
    torch.testing.assert_close(found, standardised(pixels(BYTES), folder)[0])
    assert notes[0] == "pixels scaled to [0, 1] (from 0 to 255, divided by 255)"


def test_floats_that_are_no_bytes_and_not_scaled_are_refused_with_a_processor(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pixels from 0 to 255"):
        standardised(pixels(np.linspace(0, 255, BYTES.size).reshape(BYTES.shape)), loaded(tmp_path, STANDARD))


SIZES: list[tuple[dict[str, Any], tuple[int, int] | None]] = [
    ({"size": {"height": 8, "width": 7}}, (8, 7)),
    ({"size": 8}, (8, 8)),
    ({"size": [8, 7]}, (8, 7)),
    ({"size": {"shortest_edge": 8}, "crop_pct": 0.875}, (8, 8)),
    ({"size": {"shortest_edge": 9}, "do_center_crop": True, "crop_size": {"height": 8, "width": 8}}, (8, 8)),
    ({"size": {"shortest_edge": 8}, "do_center_crop": False, "crop_size": {"height": 9, "width": 9}}, (8, 8)),
    ({"size": {"height": 8, "width": 8}, "do_resize": False}, None),
    ({"size": {"longest_edge": 8}}, None),
    ({}, None),
]


@pytest.mark.parametrize(("size", "made"), SIZES)
def test_a_model_of_any_size_gets_the_images_that_its_processor_makes(
    tmp_path: Path, size: dict[str, Any], made: tuple[int, int] | None
) -> None:
    model = Loaded(residual(), "m", "", loaded(tmp_path, {**STANDARD, **size}).folder)
    assert not hasattr(model.module.config, "image_size")
    if made is None:
        assert standardised(pixels(BYTES), model)[0].shape == BYTES.shape
        return
    with pytest.raises(InputError) as refused:
        standardised(pixels(BYTES), model)
    assert refused.value.what == f"images of 3×6×6, but {PROCESSOR} of m makes {made[0]}×{made[1]} pixels"
    assert refused.value.hint == f"resize them to {made[0]}×{made[1]} first"
    right = np.zeros((2, 3, *made), dtype=np.uint8)
    assert standardised(pixels(right), model)[0].shape == right.shape


def test_channels_are_flipped_where_the_processor_flips_them(tmp_path: Path) -> None:
    """As MobileViT's, whose models take blue first."""
    found, _ = standardised(pixels(BYTES), loaded(tmp_path, {"do_normalize": False, "do_flip_channel_order": True}))
    torch.testing.assert_close(found, torch.from_numpy(BYTES[:, ::-1].copy()).float() / 255)


def test_a_processor_inside_of_another_counts_first(tmp_path: Path) -> None:
    """Where newer versions of transformers write it."""
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": STANDARD}))
    found, notes = standardised(pixels(BYTES), loaded(tmp_path, {"do_normalize": False}))
    torch.testing.assert_close(found.double(), wanted(BYTES, STANDARD), rtol=1e-5, atol=1e-5)
    assert notes == ("pixels standardised as processor_config.json says",)
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    found, _ = standardised(pixels(BYTES), loaded(tmp_path, {"do_normalize": False}))
    torch.testing.assert_close(found, torch.from_numpy(BYTES).float() / 255)


def residual() -> Any:
    """A classifier whose config says nothing of the size of images."""
    import transformers

    config: Any = transformers.ResNetConfig
    size = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1]}
    return transformers.ResNetForImageClassification(config(**size, num_labels=3))


@pytest.mark.parametrize(
    "body",
    [
        {"image_mean": [0.5], "image_std": [0.5]},
        {"image_mean": MEAN, "image_std": [0.2, 0.0, 0.2]},
        {"image_mean": MEAN},
        {"image_mean": ["a", "b", "c"], "image_std": DEVIATION},
        {"image_mean": MEAN, "image_std": [0.2, float("nan"), 0.2]},
        {**STANDARD, "rescale_factor": 0},
        {**STANDARD, "rescale_factor": "1/255"},
        "[]",
        "{",
    ],
)
def test_a_processor_that_is_not_sound_is_refused(tmp_path: Path, body: Any) -> None:
    with pytest.raises(InputError) as caught:
        standardised(pixels(BYTES), loaded(tmp_path, body))
    assert PROCESSOR in str(caught.value)


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (np.zeros((4, 20)), "takes images, not rows of features"),
        (np.zeros((4, 1, 6, 6)), "takes 3 channels"),
        (np.zeros((4, 3, 8, 8)), "takes 6×6 pixels"),
    ],
)
def test_other_images_are_refused(tmp_path: Path, x: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        standardised(pixels(x), loaded(tmp_path))


def test_bytes_of_a_file_are_scaled(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=BYTES.transpose(0, 2, 3, 1), y=np.arange(4))
    table = arrays.parse((tmp_path / "x.npz").read_bytes(), "x.npz")
    found, _ = standardised(table, loaded(tmp_path))
    torch.testing.assert_close(found, torch.from_numpy(BYTES).float() / 255)
