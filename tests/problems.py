"""The case table: small tasks through which every estimator runs against a brute-force answer.

Each case builds its own model, samples and loss anew, from a fixed seed, in float64. ``problem()`` gives a fresh
Problem; the oracles take ``parts()`` and never look into a Problem.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from estimators.task.function import Samples
from estimators.task.losses import LossFunction
from estimators.task.problem import Problem

Loss = str | LossFunction
Parts = tuple[nn.Module, Samples, Loss]


@dataclass(frozen=True)
class Case:
    """A task by name. ``small``: its Hessian can go through a semidefinite solver; ``dead``: has coordinates
    that no sample reaches; ``hessian``: the Hessian that it was built from, where it was."""

    name: str
    parts: Callable[[], Parts]
    small: bool = True
    dead: bool = False
    hessian: Tensor | None = None

    def problem(self, forms_hessian: bool | None = None) -> Problem:
        return Problem(*self.parts(), forms_hessian=forms_hessian)

    def __str__(self) -> str:
        return self.name


# -- quadratics ------------------------------------------------------------------------------------


class Quadratic(nn.Module):
    """l_i(w) = 1/2 w'Hw + x_i'w for rows x_i of the input; w is cut into a matrix and a vector."""

    matrix: Tensor

    def __init__(self, matrix: Tensor, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.left = nn.Parameter(start[:4].reshape(2, 2).clone())
        self.right = nn.Parameter(start[4:].clone())

    def forward(self, x: Tensor) -> Tensor:
        w = torch.cat([self.left.flatten(), self.right])
        output: Tensor = 0.5 * (w @ self.matrix @ w) + x @ w
        return output


def value(output: Tensor, targets: Tensor) -> Tensor:
    """The loss of a model that returns its loss."""
    return output


def quadratic(matrix: Tensor, n: int = 9, noise: float = 1.0, seed: int = 0) -> Parts:
    """A quadratic with Hessian ``matrix`` (d, d), d > 4, and per-sample linear terms of size ``noise``."""
    g = torch.Generator().manual_seed(seed)
    d = matrix.shape[0]
    x = noise * torch.randn(n, d, generator=g, dtype=torch.float64)
    start = torch.randn(d, generator=g, dtype=torch.float64)
    return Quadratic(matrix, start), (x, torch.zeros(n, dtype=torch.float64)), value


def orthogonal(d: int, seed: int = 0) -> Tensor:
    """A random orthogonal matrix."""
    g = torch.Generator().manual_seed(seed)
    q: Tensor = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    return q


def symmetric(d: int, seed: int = 0) -> Tensor:
    """A matrix of the Gaussian orthogonal ensemble."""
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(d, d, generator=g, dtype=torch.float64)
    return (a + a.T) / 2


def _axis_aligned() -> Tensor:
    return torch.diag(10.0 ** torch.linspace(-2, 2, 10, dtype=torch.float64))


def _rotated() -> Tensor:
    q = orthogonal(10, 1)
    return q @ _axis_aligned() @ q.T


def _singular() -> Tensor:
    q = orthogonal(10, 2)[:, :3]
    return q @ torch.diag(torch.tensor([5.0, 1.0, 0.2], dtype=torch.float64)) @ q.T


def _zero_rows() -> Tensor:
    matrix = symmetric(10, 3)
    matrix[[1, 6]] = 0
    matrix[:, [1, 6]] = 0
    return matrix


# -- models ----------------------------------------------------------------------------------------


class Scores(nn.Module):
    """w'x without bias."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(d) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


class BagOfTokens(nn.Module):
    """Mean embedding and a linear layer."""

    def __init__(self, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.out = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.out(self.embedding(tokens).mean(1))
        return output


def logistic() -> Parts:
    torch.manual_seed(10)
    x = torch.randn(40, 8) * torch.logspace(-1, 1, 8)
    return Scores(8).double(), (x.double(), torch.sign(torch.randn(40)).double()), "logistic"


def softmax() -> Parts:
    torch.manual_seed(11)
    return nn.Linear(5, 3).double(), (torch.randn(30, 5).double(), torch.randint(0, 3, (30,))), "cross-entropy"


def regression() -> Parts:
    torch.manual_seed(12)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return model.double(), (torch.randn(20, 3).double(), torch.randn(20, 2).double()), "squared"


def mlp() -> Parts:
    torch.manual_seed(13)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return model.double(), (torch.randn(25, 4).double(), torch.randint(0, 3, (25,))), "cross-entropy"


def cnn() -> Parts:
    """Batch norm in evaluation mode; the running statistics are those of no batch."""
    torch.manual_seed(14)
    norm = nn.BatchNorm2d(2)
    norm.running_mean, norm.running_var = torch.tensor([0.3, -0.2]), torch.tensor([0.5, 2.0])
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.7, 1.4]))
        norm.bias.copy_(torch.tensor([0.1, 0.4]))
    return model.eval(), (torch.randn(12, 1, 6, 6).double(), torch.randint(0, 3, (12,))), "cross-entropy"


def unseen_token() -> Parts:
    """Untied embedding: the rows of tokens 2 and 6 have neither noise nor curvature."""
    torch.manual_seed(15)
    tokens = torch.tensor([0, 1, 3, 4, 5])[torch.randint(0, 5, (15, 4))]
    return BagOfTokens(7, 3, 3).double(), (tokens, torch.randint(0, 3, (15,))), "cross-entropy"


def gpt2() -> Parts:
    """Two layers, tied embedding, LayerNorm, right padding, a token that no sequence holds, two unused positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(16)
    config = GPT2Config(
        vocab_size=20, n_embd=16, n_layer=2, n_head=2, n_inner=16, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tokens = torch.randint(0, 19, (5, 6))
    mask = torch.ones_like(tokens)
    for row, length in enumerate((6, 6, 5, 4, 2)):
        mask[row, length:] = 0
    samples: dict[str, Tensor] = {
        "input_ids": tokens * mask,
        "attention_mask": mask,
        "labels": torch.where(mask == 1, tokens, -100),
    }
    return model, samples, "cross-entropy"


def _of(name: str, matrix: Tensor, **kind: Any) -> Case:
    return Case(name, lambda: quadratic(matrix), hessian=matrix, **kind)


CASES = (
    _of("axis-aligned", _axis_aligned()),
    _of("rotated", _rotated()),
    _of("indefinite", symmetric(10, 4)),
    _of("singular", _singular()),
    _of("zero-rows", _zero_rows()),
    Case("logistic", logistic),
    Case("softmax", softmax),
    Case("regression", regression),
    Case("mlp", mlp),
    Case("cnn-batchnorm", cnn),
    Case("unseen-token", unseen_token, dead=True),
    Case("gpt2", gpt2, small=False, dead=True),
)
BY_NAME = {case.name: case for case in CASES}
SMALL = tuple(case for case in CASES if case.small)
