"""A digest of what is measured: the model's code and weights, all rows that runs train on, and those held out."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import inspect
import json
import types
from typing import Any

import torch
from torch import Tensor, nn

from diagnose.inputs.data.objects import Samples
from diagnose.inputs.models.save import portable

LIBRARIES = ("torch", "transformers")
"""Packages whose classes are known by their names."""
INTERNAL = frozenset(vars(nn.Module()))
"""What every module has: parameters, buffers and modules, which are named apart, hooks, the training mode."""


def fingerprint(model: nn.Module, samples: Samples, held_out: Samples | None = None) -> str:
    """sha256 in hexadecimal, over names, formats, shapes and bytes of parameters, buffers and samples, and over what
    says how they are used: class, source and attributes of every module, configurations.
    """
    digest = hashlib.sha256()
    modules = list(model.named_modules())
    configs = {id(config): config for _, module in modules if hasattr(config := _config(module), "to_json_string")}
    sources = sorted({source(type(module)) for _, module in modules})
    described = [_described(name, module) for name, module in modules]
    written = [portable(json.loads(config.to_json_string(use_diff=False))) for config in configs.values()]
    for config in written:
        config.pop("transformers_version", None)
    digest.update(json.dumps([described, written, sources], sort_keys=True).encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        _add(digest, name, tensor)
    for part in (samples, held_out or {}):
        named = part if isinstance(part, dict) else {"inputs": part[0], "targets": part[1]}
        for name in sorted(named):
            _add(digest, name, named[name])
    return digest.hexdigest()


def _config(module: nn.Module) -> Any:
    return getattr(module, "config", None)


def _described(name: str, module: nn.Module) -> list[Any]:
    """Class and attributes of one module, without what differs between two processes or places."""
    attributes = {key: _plain(value) for key, value in vars(module).items() if key not in INTERNAL}
    return [name, f"{type(module).__module__}.{type(module).__qualname__}", portable(attributes)]


def _plain(value: Any) -> Any:
    """A value as JSON has it; of what it has no form for, the name of a function, else of the class."""
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (argparse.Namespace, types.SimpleNamespace)):
        return _plain(vars(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    named = value if inspect.isroutine(value) or isinstance(value, type) else type(value)
    return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', '')}"


def source(own: Any) -> str:
    """The code of a class or function that is no library's; empty where it cannot be read."""
    if str(getattr(own, "__module__", "")).partition(".")[0] in LIBRARIES:
        return ""
    try:
        return inspect.getsource(own)
    except (OSError, TypeError):  # typed in at a prompt
        return ""


def _add(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
