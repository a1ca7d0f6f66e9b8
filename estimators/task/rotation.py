"""A fixed random rotation of the coordinates: the control that takes away whatever alignment the axes have."""

from __future__ import annotations

import torch
from torch import Tensor

from estimators.results import Finding
from estimators.task.function import Parameters
from estimators.task.problem import Problem

ROUNDS = 2
BLOCK = 256
"""Coordinates that one round mixes. After two rounds a new coordinate is a combination of up to BLOCK^2 old ones, each
picked from anywhere; one round leaves products of blocks that a diagonal Hessian keeps apart."""
NAME = "rotated"
"""The one parameter of a rotated problem, shape (d,)."""
CONTROL = Finding(
    code="rotated-coordinates",
    severity="note",
    stage="opening",
    found="the coordinates are turned by a random rotation",
    meaning="a control: sgd is what it was, everything that depends on coordinates is that of axes without meaning",
    action="leave `--rotate` out for the answer on your task",
)


class Rotation:
    """w = Q z for an orthogonal Q of two rounds: permute, flip signs, rotate blocks of coordinates.

    Q is never formed. Memory: a permutation and d signs for each round, and one matrix of at most BLOCK x BLOCK,
    from the Haar measure, that all blocks of a round share (the last block, which may be smaller, has its own).

    Args:
        d: number of coordinates.
        seed: what the permutations, signs and matrices follow.
        like: a tensor with the number format and the device of the vectors.
    """

    def __init__(self, d: int, seed: int, like: Tensor) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.d, self.size = d, min(d, BLOCK)
        self._rounds: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for _ in range(ROUNDS):
            order = torch.randperm(d, generator=generator).to(like.device)
            signs = (2.0 * torch.randint(0, 2, (d,), generator=generator) - 1).to(like.device, like.dtype)
            block, last = (haar(size, generator).to(like.device, like.dtype) for size in (self.size, d % self.size))
            self._rounds.append((order, signs, block, last))

    def forward(self, z: Tensor) -> Tensor:
        """Q z along the last dimension, shape (..., d). Differentiable, and fit for vmap."""
        for order, signs, block, last in self._rounds:
            z = self._blocks(z[..., order] * signs, block, last)
        return z

    def inverse(self, w: Tensor) -> Tensor:
        """Q' w along the last dimension."""
        for order, signs, block, last in reversed(self._rounds):
            w = self._blocks(w, block.T, last.T) * signs
            w = w[..., order.argsort()]
        return w

    def _blocks(self, x: Tensor, block: Tensor, last: Tensor) -> Tensor:
        whole = self.d - self.d % self.size
        first = (x[..., :whole].reshape(*x.shape[:-1], -1, self.size) @ block).flatten(-2)
        return first if whole == self.d else torch.cat([first, x[..., whole:] @ last], -1)


def haar(n: int, generator: torch.Generator) -> Tensor:
    """An orthogonal (n, n) matrix from the Haar measure, float64 (Mezzadri, Notices of the AMS 2007)."""
    q, r = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    signed: Tensor = q * r.diagonal().sign()
    return signed


def rotated(problem: Problem, seed: int) -> Problem:
    """The same f in coordinates z with w = Q z: gradient Q'g, Hessian Q'HQ, one parameter ``rotated`` of shape (d,).

    Noise, curvature and every update rule then see the rotated coordinates; samples, losses and passes are shared.

    Examples:
        >>> import torch
        >>> from estimators import Problem, rotated, spectrum
        >>> samples = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), samples, loss="squared")  # H = diag(2, 1/2)
        >>> turned = rotated(problem, seed=0)
        >>> {name: tuple(part.shape) for name, part in turned.parameters.items()}
        {'rotated': (2,)}
        >>> round(spectrum(turned).largest, 4)  # a rotation leaves the eigenvalues
        2.0
    """
    other = problem.derived()
    flat = problem.flatten(problem.parameters).to(problem.dtype)
    rotation = Rotation(problem.d, seed, flat)
    sizes, like = problem.sizes, problem.parameters

    def unrotated(parameters: Parameters) -> Parameters:
        parts = zip(like.items(), torch.split(rotation.forward(parameters[NAME]), sizes, -1), strict=True)
        return {name: part.reshape(*part.shape[:-1], *p.shape).to(p) for (name, p), part in parts}

    other.unrotated = unrotated
    other.parameters = {NAME: rotation.inverse(flat)}
    other.names, other.sizes, other.shapes = (NAME,), [problem.d], {NAME: torch.Size([problem.d])}
    other.measure_graphs()
    other.findings = (*problem.findings, CONTROL)
    return other
