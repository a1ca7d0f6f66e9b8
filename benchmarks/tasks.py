"""The models and samples on which everything is compared, each from a fixed seed.

Large ones with random weights and data, where cost is the question; small ones on real data, trained or at their start,
where estimates of the curvature are held against the Hessian that is formed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnose.inputs.data import embedded
from diagnose.inputs.models.resnet import ResNet20
from estimators import Problem
from estimators.task.function import Samples

PLAIN_GPT2: dict[str, Any] = {
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    **dict.fromkeys(("bos_token_id", "eos_token_id")),
    "use_cache": False,
}


@dataclass(frozen=True)
class Task:
    """A model with its samples. ``inputs`` is what forward takes, ``mean_loss`` the mean over the samples."""

    name: str
    model: nn.Module
    samples: Samples
    problem: Problem

    @property
    def inputs(self) -> Any:
        if isinstance(self.samples, dict):
            return {name: tensor for name, tensor in self.samples.items() if name != "labels"}
        return self.samples[0]

    @property
    def targets(self) -> Tensor:
        return self.samples["labels"] if isinstance(self.samples, dict) else self.samples[1]

    def mean_loss(self) -> Tensor:
        """The loss of a plain training step, for the unit of cost."""
        if isinstance(self.samples, dict):
            return token_loss(self.model(**self.inputs).logits, self.targets)
        return F.cross_entropy(self.model(self.inputs), self.targets)

    def forward_backward(self) -> list[Tensor]:
        """One forward+backward pass over the samples."""
        return list(torch.autograd.grad(self.mean_loss(), list(self.model.parameters())))

    @cached_property
    def hessian(self) -> Tensor:
        """H of the mean loss, (d, d), in float64: row by row by double backward, without the estimators' products."""
        task = Task(self.name, copy.deepcopy(self.model).double(), _doubled(self.samples), self.problem)
        parameters = list(task.model.parameters())
        gradient = torch.cat(
            [part.reshape(-1) for part in torch.autograd.grad(task.mean_loss(), parameters, create_graph=True)]
        )
        rows = [task.flat(torch.autograd.grad(entry, parameters, retain_graph=True)) for entry in gradient]
        matrix = torch.stack(rows)
        return (matrix + matrix.T) / 2

    def flat(self, parts: Any) -> Tensor:
        """One vector of what is given for each parameter, in float64."""
        return torch.cat([part.detach().double().reshape(-1) for part in parts])


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the next token, for sequences of one length."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def gpt2() -> Task:
    """4 layers of width 256, sequences of 128 bytes, 32 samples."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 257, "n_positions": 128, "n_embd": 256, "n_layer": 4, "n_head": 4}
    model: Any = GPT2LMHeadModel(GPT2Config(**shape, **PLAIN_GPT2))
    model.set_attn_implementation("eager")
    tokens = torch.randint(0, 256, (32, 128))
    return _task("GPT-2, 4 × 256, 32 × 128 tokens", model, {"input_ids": tokens, "labels": tokens})


def mlp() -> Task:
    """784-256-256-10, batch 256."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return _task("MLP, 784-256-256-10, 256 samples", model, (torch.randn(256, 784), torch.randint(0, 10, (256,))))


def resnet20() -> Task:
    """ResNet-20 on 64 images of 32 x 32, batch norm in evaluation mode."""
    torch.manual_seed(0)
    images, labels = torch.rand(64, 3, 32, 32), torch.randint(0, 10, (64,))
    return _task("ResNet-20, 64 images of 32 × 32", ResNet20(10), (images, labels))


def digits(steps: int) -> Task:
    """64-24-24-10 with tanh on 256 digits, after some steps of Adam."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 10)]
    table = embedded.table("digits")
    images = torch.from_numpy(table.images).float().flatten(1)
    samples = images[:256], torch.from_numpy(table.targets)[:256].long()
    when = "trained" if steps else "at its start"
    return _trained(f"MLP on digits, {when}", nn.Sequential(*layers), samples, steps)


def topics() -> Task:
    """GPT-2 of 2 layers of width 8 on 16 sequences of 32 characters, after 100 steps of Adam."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 128, "n_positions": 32, "n_embd": 8, "n_layer": 2, "n_head": 2}
    model: Any = GPT2LMHeadModel(GPT2Config(**shape, **PLAIN_GPT2))
    model.set_attn_implementation("eager")
    content = torch.from_numpy(embedded.topics().tokens.copy())
    characters = content[content < 128].long()
    rows = characters[: len(characters) // 32 * 32].reshape(-1, 32)
    tokens = rows[:: len(rows) // 16][:16]
    return _trained("GPT-2, 2 × 8, trained", model, {"input_ids": tokens, "labels": tokens}, 100)


def iris() -> Task:
    """4-6-3 with tanh on iris, after 200 steps of Adam; a semidefinite solver takes seconds, minutes at d = 105."""
    torch.manual_seed(0)
    table = embedded.table("iris")
    samples = torch.from_numpy(table.inputs).float(), torch.from_numpy(table.targets).long()
    return _trained("MLP on iris, trained", nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), samples, 200)


def _trained(name: str, model: nn.Module, samples: Samples, steps: int) -> Task:
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    task = _task(name, model, samples)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(task.mean_loss())
        optimizer.step()
    trained = _task(name, model, samples)
    return replace(trained, name=f"{name}, d = {trained.problem.d:,}")


def _doubled(samples: Samples) -> Samples:
    """Inputs in float64; token numbers stay what they are."""
    if isinstance(samples, dict):
        return samples
    return samples[0].double(), samples[1]


def _task(name: str, model: nn.Module, samples: Samples) -> Task:
    model.eval()
    return Task(name, model, samples, Problem(model, samples))


TASKS: dict[str, Callable[[], Task]] = {
    "gpt2": gpt2,
    "mlp": mlp,
    "resnet20": resnet20,
    "digits-start": partial(digits, 0),
    "digits": partial(digits, 60),
    "topics": topics,
    "iris": iris,
}
LARGE = ("gpt2", "mlp", "resnet20")
FORMED = ("digits-start", "digits", "topics")
"""Small enough for a Hessian that is formed, too large for the estimators to form it themselves."""
TINY = ("iris",)
"""Small enough for a semidefinite solver."""
