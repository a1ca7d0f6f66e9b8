"""A model whose second derivatives are wrong: noise and race as for any other, curvature null with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import diagnose
from tests.estimators.wrong_derivatives import FIRST, SECOND, network, wine

CURVED = ("smoothness", "spectrum", "hessian_diagonal", "generalized_smoothness")


def test_curvature_is_null_with_its_reason(tmp_path: Path) -> None:
    model = network(SECOND["an intermediate kept in ctx"], torch.float32)
    out = tmp_path / "d"
    inputs, targets = wine()
    ended = diagnose.run(model, (inputs.float(), targets), steps=20, out=str(out))
    assert ended.noise.l1 is not None
    assert ended.training.speedup is not None
    stored = json.loads((out / "result.json").read_text())
    for name in CURVED:
        part = stored[name]
        reasons = part.pop("why")
        assert set(part.values()) == {None}
        assert all("autograd's second derivative is" in reasons[key] for key in part)
    told = [each for each in stored["warnings"] if each["severity"] == "warning" and each["stage"] != "training"]
    assert [each["code"] for each in told] == ["no-curvature"]
    assert "second derivatives can't be measured" in (out / "report.html").read_text().replace("&#39;", "'")
    assert diagnose.Diagnosis.load(out).status == "finished"


def test_a_gradient_of_no_loss_ends_the_run() -> None:
    with pytest.raises(diagnose.InputError, match="the gradient is not that of the loss"):
        diagnose.run(network(FIRST["a reversed gradient"]), wine(), steps=20)
