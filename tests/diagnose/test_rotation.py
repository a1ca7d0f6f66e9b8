"""`--rotate` from end to end: AdaGrad's advantage goes with the axes, sgd stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import diagnose
from diagnose.command import cli
from estimators.task.rotation import NAME
from reports.record.diagnosis import Diagnosis

D = 48


class Axes(nn.Module):
    """1/2 sum_j h_j w_j^2 with h from 1 to 0.01, and noise of size sqrt(h_j) in each coordinate alone."""

    h: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", 10.0 ** -torch.linspace(0, 2, D))
        self.w = nn.Parameter(self.h.rsqrt())

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (self.h * self.w.square()).sum() + (x * self.h.sqrt()) @ self.w


def value(output: Tensor, targets: Tensor) -> Tensor:
    return output


def run(**settings: Any) -> Diagnosis:
    x = 0.3 * torch.randn(128, D, generator=torch.Generator().manual_seed(0))
    settings |= {"skip": ("generalized-smoothness",), "optimizers": ("sgd", "adagrad", "adagrad-norm")}
    return diagnose.run(Axes(), (x - x.mean(0), torch.zeros(128)), value, steps=60, batch_size=16, seeds=3, **settings)


def test_the_advantage_goes_with_the_axes() -> None:
    plain, turned = run(), run(rotate=True)
    assert plain.smoothness.density is not None
    assert plain.smoothness.density_rotated is not None
    assert turned.smoothness.density is not None
    assert turned.smoothness.density == pytest.approx(plain.smoothness.density_rotated, rel=0.05)
    assert plain.smoothness.density < 0.3 < 0.55 < turned.smoothness.density
    assert plain.noise.density is not None
    assert turned.noise.density is not None
    assert plain.noise.density < 0.9 < turned.noise.density
    assert turned.noise.l2 == pytest.approx(plain.noise.l2, rel=1e-4)
    assert turned.smoothness.sharpness == pytest.approx(plain.smoothness.sharpness, rel=1e-4)
    assert turned.smoothness.why["density_rotated"] == "everything here is measured after a random rotation"
    assert set(turned.vectors["noise"]) == {NAME}
    ours, theirs = plain.training.methods, turned.training.methods
    assert ours is not None
    assert theirs is not None
    assert theirs["sgd"]["final_loss"] == pytest.approx(ours["sgd"]["final_loss"], rel=1e-3)
    assert plain.training.speedup is not None
    assert turned.training.speedup is not None
    # What is left is that its step shrinks, which AdaGrad-Norm has too: it is no better than that one any more.
    assert plain.training.speedup > 10
    assert turned.training.speedup < 3
    assert ours["adagrad"]["lowest_loss"] < 0.3 * ours["adagrad-norm"]["lowest_loss"]
    assert theirs["adagrad"]["lowest_loss"] > theirs["adagrad-norm"]["lowest_loss"]
    assert [w.code for w in turned.warnings].count("rotated-coordinates") == 1
    assert any("--rotate" in line for line in turned.task.understood or ())
    assert "rotate=True" in turned.command


def test_the_option(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["softmax", "--data", "iris", "--steps", "20", "--seeds", "1", "--rotate"]
    assert cli.main(words) == 0
    found = Diagnosis.load(tmp_path / "diagnosis-softmax-iris")
    assert found.command == "diagnose softmax --data iris --steps 20 --seeds 1 --rotate"
    assert "random rotation" in (tmp_path / "diagnosis-softmax-iris" / "report.html").read_text()
    assert cli.main(words[:-1]) == 2
    assert "rotate" in capsys.readouterr().err
