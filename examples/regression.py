"""Least squares on Gaussian features of equal scale, with one strong coefficient or with equal ones.

    python examples/regression.py one     SGD wins: a single coordinate has to move far, the noise is the same in all
    python examples/regression.py equal   no difference: every coordinate has as far to go

AdaGrad gives each coordinate steps of the same size. With one strong coefficient that size must be large, and all other
coordinates pay for it with noise; the distances D_inf and D_2 of the two methods' runs are then nearly the same, and
the theory, read with them, favours SGD. The folder of the run is the last word of the output.
"""

from __future__ import annotations

import sys
from typing import Literal

import torch
from torch import Tensor, nn

import diagnose

FEATURES, ROWS = 50, 1000
Kind = Literal["one", "equal"]


def task(kind: Kind) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A linear model at 0, and rows (x, x'c + noise) with ||c||_2 = 10 and noise of variance 1."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=generator)
    if kind == "one":
        coefficients = torch.zeros(FEATURES)
        coefficients[0] = 10.0
    else:
        signs = torch.where(torch.arange(FEATURES) % 2 == 0, 1.0, -1.0)
        coefficients = 10.0 * signs / FEATURES**0.5
    y = x @ coefficients + torch.randn(ROWS, generator=generator)
    model = nn.Linear(FEATURES, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model, (x, y[:, None])


def diagnosis(kind: Kind, out: str | None = None) -> diagnose.Diagnosis:
    """SGD and AdaGrad on the task. "No difference" needs a narrow interval, and so more seeds."""
    model, data = task(kind)
    chosen = {"seeds": 8, "steps": 300} if kind == "one" else {"seeds": 40, "steps": 150, "batch_size": 64}
    return diagnose.run(model, data, loss="squared", optimizers=("sgd", "adagrad"), out=out, **chosen)


if __name__ == "__main__":
    if sys.argv[1:] not in (["one"], ["equal"]):
        sys.exit("usage: python examples/regression.py one|equal")
    folder = f"diagnosis-regression-{sys.argv[1]}"
    found = diagnosis("one" if sys.argv[1] == "one" else "equal", folder)
    print(*(found.verdict.reasons or ()), sep="\n")
    print(found.verdict.answer, folder)
