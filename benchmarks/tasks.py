"""The models and samples on which everything is compared; random weights, random data, a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnose.inputs.models.resnet import ResNet20
from estimators import Problem
from estimators.problem import Samples


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
    shape = {"vocab_size": 257, "n_positions": 128, "n_embd": 256, "n_layer": 4, "n_head": 4}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
    settings: dict[str, Any] = {**shape, **off, "use_cache": False}
    model: Any = GPT2LMHeadModel(GPT2Config(**settings))
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


def _task(name: str, model: nn.Module, samples: Samples) -> Task:
    model.eval()
    return Task(name, model, samples, Problem(model, samples))


TASKS: dict[str, Callable[[], Task]] = {"gpt2": gpt2, "mlp": mlp, "resnet20": resnet20}
