"""A digest of the weights and the sample set."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from diagnose.inputs.data.objects import Samples


def fingerprint(model: nn.Module, samples: Samples) -> str:
    """sha256 over names, formats, shapes and bytes of parameters, buffers and samples, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        _add(digest, name, tensor)
    named = samples if isinstance(samples, dict) else {"inputs": samples[0], "targets": samples[1]}
    for name in sorted(named):
        _add(digest, name, named[name])
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
