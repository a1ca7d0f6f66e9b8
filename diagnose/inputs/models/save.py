"""Models to files that the command opens again: architecture, configuration and weights, nothing pickled."""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diagnose.errors import DISK_FULL, InputError
from diagnose.inputs.models import architectures, networks
from diagnose.inputs.models.catalogue import CLASSES, NETWORKS, Network
from diagnose.inputs.models.hints import FACTORY
from diagnose.inputs.models.weights import compared
from diagnose.inputs.random_state import seeded
from diagnose.settings import printable

PATHS = ("_name_or_path", "name_or_path", "_commit_hash", "auto_map")
"""Keys of a configuration that speak of the machine it was made on."""


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model to a file that ``diagnose FILE`` opens: a dict of ``architecture``, ``config``, ``state_dict``.

    Takes models of transformers with a head that is measured, and those that diagnose builds itself. An existing
    file is replaced; it is complete or unchanged at any moment.

    Raises:
        InputError: a model of another class; a file that cannot be written.

    Examples:
        >>> import tempfile
        >>> import diagnose
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> size = {"vocab_size": 257, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
        >>> model = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=256, eos_token_id=256))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     diagnose.save(model, f"{folder}/model.pt")  # then: diagnose model.pt --data pydoc-topics
    """
    side, target = _write(_checkpoint(model), Path(path))
    side.replace(target)


def write_built_in(network: Network, path: Path, seed: int, fresh: bool) -> nn.Module:
    """Write a built-in model with random weights; a file of exactly this model is left as it is.

    Raises:
        InputError: a size that follows the data; a file of something else without ``fresh``.
    """
    if network.takes == "text":
        model = networks.build(network, (), 0, seed)
    elif network.name == "resnet20":
        model = networks.build(network, (3, 32, 32), CLASSES, seed)
    else:
        hint = f"`diagnose {network.name} --data DATA` builds it to fit"
        raise InputError(f"the size of {network.name} follows the data", "--save", hint)
    side, target = _write(_checkpoint(model), path)
    if target.is_file() and not fresh and not filecmp.cmp(side, target, shallow=False):
        side.unlink()
        raise InputError("the file exists and holds something else", printable(path), "`--fresh` replaces it")
    side.replace(target)
    return model


def _checkpoint(model: nn.Module) -> dict[str, Any]:
    """The three parts of a checkpoint.

    Raises:
        InputError: a class that could not be built again from them.
    """
    name = type(model).__name__
    recipe = getattr(model, "recipe", None)
    if isinstance(recipe, dict):
        if not _as_built(model, recipe):
            raise InputError(f"a {recipe['architecture']} that was changed", printable(name), FACTORY)
        head = recipe
    else:
        import transformers

        if not isinstance(model, transformers.PreTrainedModel):
            raise InputError(f"{printable(name)} is no built-in model and none of transformers", "save", FACTORY)
        if architectures.find_class(name) is not type(model):
            raise InputError(f"{printable(name)} is no class of transformers itself", "save", FACTORY)
        with torch.device("meta"), seeded(0), architectures.silent():
            again = type(model)(model.config)
        misfit = compared(again.state_dict(), model.state_dict())
        if misfit:
            raise InputError(f"a {name} that was changed", str(misfit), f"merge what was added, or {FACTORY}")
        text = model.config.to_json_string(use_diff=False)
        head = {"architecture": name, "config": portable(json.loads(text))}
    state = {key: tensor.detach().cpu() for key, tensor in model.state_dict().items()}
    return {**head, "state_dict": state}


def _as_built(model: nn.Module, recipe: dict[str, Any]) -> bool:
    """Whether a built-in model still has the layers it was built with."""
    config = recipe["config"]
    again = networks.build(NETWORKS[recipe["architecture"]], tuple(config["shape"]), config["outputs"], 0)
    return str(again) == str(model) and not compared(again.state_dict(), model.state_dict())


def portable(config: Any) -> Any:
    """A configuration, at every depth, without what it says of files."""
    if isinstance(config, dict):
        return {key: portable(value) for key, value in config.items() if key not in PATHS}
    return [portable(value) for value in config] if isinstance(config, list) else config


def _write(checkpoint: dict[str, Any], path: Path) -> tuple[Path, Path]:
    """Write to a side file; returns it and the file whose place it takes, of a link the one that it stands for."""
    where = printable(path)
    if "\0" in str(path):
        raise InputError("no name of a file", where, "give the path of a file")
    if path.suffix == ".safetensors":
        raise InputError("a safetensors file holds no architecture", where, f"use `{printable(path.stem)}.pt`")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError("a folder" if path.is_dir() else "no such folder", where, "give the path of a file")
    if path.exists() and not path.is_file():
        raise InputError("no regular file", where, "give the path of a file")
    target = Path(os.path.realpath(path))
    side = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with side.open("wb") as file:
            torch.save(checkpoint, file)
    except BaseException as error:
        with contextlib.suppress(OSError):
            side.unlink(missing_ok=True)
        if not isinstance(error, OSError) or error.errno in DISK_FULL:
            raise
        raise InputError("the file cannot be written", f"{where}: {error.strerror}", "choose another place") from None
    return side, target
