"""Models from a file: a checkpoint that names its architecture, a bare state dict, or a pickled module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diagnose.errors import InputError
from diagnose.inputs.models import architectures, hints, networks, pretrained, reading, weights
from diagnose.inputs.models.catalogue import NETWORKS, Network
from diagnose.inputs.models.loaded import Loaded
from diagnose.settings import Settings, printable
from estimators.task.checks import refuse_unmade
from estimators.task.model_kinds import unwrapped

NESTED = ("state_dict", "model_state_dict", "model", "module")
"""Where training checkpoints keep the weights."""
OPTIMIZER = {"state", "param_groups"}


def open_file(path: Path, settings: Settings) -> Loaded:
    """A model from a file of torch.save or safetensors.

    Raises:
        InputError: whatever keeps the file from being a model with all of its weights.
    """
    where = printable(path.name)
    found = reading.read(path, settings.trust_pickle)
    if isinstance(found, nn.Module):
        if settings.architecture is not None:
            raise InputError("the file holds a whole module", "--architecture", "leave it out")
        found, _ = unwrapped(found)
        refuse_unmade(found)
        form = pretrained.described(type(found).__name__, found.state_dict(), "the file, unpickled")
        return Loaded(weights.owned(found.cpu().eval()), where, form)
    if not isinstance(found, Mapping):
        what = f"{where}: it holds a {printable(type(found).__name__)}"
        raise InputError("no model in the file", what, hints.TENSORS)
    tensors = _state_dict(found, where)
    beside = path.parent / architectures.CONFIG
    name, config = _named(found, where)
    if name is None:
        if settings.architecture is None:
            raise InputError("a state dict without its architecture", where, _suggestion(tensors, beside, found, path))
        name = str(settings.architecture)
    elif settings.architecture is not None:
        raise InputError(f"the file names its architecture, {printable(name)}", "--architecture", "leave it out")
    if name in NETWORKS:
        network = NETWORKS[name]
        model, spare = _built_in(network, config or {}, tensors, where)
        form = pretrained.described(f"{name} ({network.form})", tensors, "the file", spare)
        return Loaded(model, where, form, network=network)
    cls = architectures.find_class(name)
    if cls is None:
        raise architectures.unknown_architecture(name, "--architecture" if settings.architecture else where)
    folder = path.parent if config is None else None
    if config is None:
        if not beside.is_file():
            hint = f"put its {architectures.CONFIG} beside the file, or write it with diagnose.save"
            raise InputError(f"no configuration of {name}", where, hint)
        config = reading.plain_json(beside)
    ready = pretrained.configured(cls, config, architectures.CONFIG if folder else where)
    model, spare = pretrained.restored(cls, ready, tensors, where)
    return Loaded(model, where, pretrained.described(name, tensors, "the file", spare), folder)


def _named(found: Mapping[Any, Any], where: str) -> tuple[str | None, dict[str, Any] | None]:
    """Architecture and configuration that a checkpoint holds beside its weights."""
    name, config = found.get("architecture"), found.get("config")
    if name is None or isinstance(name, Tensor):
        return None, None
    if not isinstance(name, str):
        raise InputError("the architecture is no name", f"{where}: architecture", "diagnose.save writes such files")
    if config is not None and not isinstance(config, dict):
        raise InputError("the configuration is no dict", f"{where}: config", "diagnose.save writes such files")
    return name, config


def _state_dict(found: Mapping[Any, Any], where: str) -> dict[str, Tensor]:
    """The tensors by name, from the place where training checkpoints keep them."""
    for key in _nesting(found):
        found = found[key]
    tensors = {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors and len(tensors) == len(found):
        return tensors
    if found.keys() >= OPTIMIZER or isinstance(found.get("optimizer"), Mapping):
        raise InputError("the state of an optimizer, no weights", where, hints.TENSORS)
    keys = ", ".join(printable(key) for key in list(found)[: weights.LISTED]) or "nothing"
    odd = next((name for name in found if name not in tensors), None)
    what = f"`{printable(odd)}` is no tensor" if tensors else f"it holds {keys}"
    raise InputError("no state dict in the file", f"{where}: {what}", hints.TENSORS)


def _nesting(found: Mapping[Any, Any]) -> list[str]:
    """The keys under which training checkpoints keep the tensors by name, the outermost first."""
    keys: list[str] = []
    while len(keys) < len(NESTED):
        key = next((key for key in NESTED if isinstance(found.get(key), Mapping)), None)
        if key is None:
            break
        keys.append(key)
        found = found[key]
    return keys


def _built_in(
    network: Network, config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> tuple[nn.Module, list[str]]:
    """A built-in model with these weights, and those without use; its sizes are those of the tensors, the images'
    shape is the config's.
    """
    if network.takes == "text":
        model: Any = networks.build(network, (), 0, 0)
        cls, ready = type(model), model.config
        return pretrained.restored(cls, ready, tensors, where)
    shape, outputs = _sizes(network, config, tensors, where)
    return weights.fill(networks.build(network, shape, outputs, 0), tensors, where, network.name), []


def _sizes(
    network: Network, config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> tuple[tuple[int, ...], int]:
    """Shape of a sample and number of outputs. What no tensor tells is 1: the fit then names what is missing."""
    ends = {_last(name): tuple(tensor.shape) for name, tensor in tensors.items()}
    if network.name == "resnet20":
        return (3, 32, 32), _size(ends.get("linear.weight"), 0)
    if network.name == "cnn":
        return _image_shape(config, where), _size(ends.get("output.weight"), 0)
    if network.name == "mlp":
        return (_size(ends.get("hidden1.weight"), 1),), _size(ends.get("output.weight"), 0)
    return (_size(ends.get("weight"), 1),), 1 if network.name == "logreg" else _size(ends.get("weight"), 0)


def _image_shape(config: Mapping[str, Any], where: str) -> tuple[int, ...]:
    shape = config.get("shape")
    sizes = shape if isinstance(shape, (list, tuple)) else ()
    if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise InputError(
            "the tensors of a cnn do not tell the size of its images", where, "write it with diagnose.save"
        )
    return tuple(sizes)


def _size(shape: tuple[int, ...] | None, axis: int) -> int:
    return shape[axis] if shape is not None and len(shape) == 2 and shape[axis] else 1


def _last(name: str) -> str:
    """A name without the prefixes of wrappers."""
    while (inner := weights.inner_name(name)) != name:
        name = inner
    return name


def _suggestion(tensors: Mapping[str, Tensor], beside: Path, found: Mapping[Any, Any], path: Path) -> str:
    """The way to name the architecture of a state dict; the built-in one where its tensors fit exactly."""
    for network in NETWORKS.values():
        if network.name != "cnn" and _fits(network, tensors):
            return f"its tensors fit `--architecture {network.name}`"
    if beside.is_file():
        named = architectures.named_class(reading.plain_json(beside))
        way = f"`--architecture {printable(named)}`" if named else "`--architecture` with a class of transformers"
        return f"name it with {way}, for the {architectures.CONFIG} beside it"
    reader = hints.SAFETENSORS if reading.is_safetensors(path) else hints.TORCH
    inside = "".join(f'["{key}"]' for key in _nesting(found))
    return (
        "name it with `--architecture`: a built-in name, or a class of transformers whose config.json is beside it; "
        + hints.factory(str(path), reader, inside)
    )


def _fits(network: Network, tensors: Mapping[str, Tensor]) -> bool:
    if network.takes == "text" and not any(name.endswith("wte.weight") for name in tensors):
        return False
    try:
        _built_in(network, {}, tensors, "")
    except InputError:
        return False
    return True
