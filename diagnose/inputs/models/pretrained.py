"""Models of transformers from folders and configurations: nothing is fetched, no weight is left at random."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diagnose.errors import InputError, out_of_memory
from diagnose.inputs.models import reading, weights
from diagnose.inputs.models.architectures import CONFIG, class_of, named_class, refuse_other_inputs, silent
from diagnose.inputs.models.loaded import Loaded
from diagnose.inputs.models.weights import Misfit
from diagnose.inputs.random_state import seeded
from diagnose.settings import Settings, listed, printable

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CHOSEN_HERE = ("_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation")
"""Keys of a configuration that choose code rather than a model; they may even name kernels to fetch."""
MUCH_LARGER = 2
"""Times as many parameters as the file has numbers: no file of the model itself is so small, whatever is tied."""
MANY_LAYERS = 1000
"""Building more than these, which no model has, could take longer than anyone waits."""
CONSTANTS = (".masked_bias", ".inv_freq", ".position_ids")
"""What older versions wrote into files and newer ones compute."""
FLOAT32 = 4
"""Bytes of a number."""
SAVED_FROM = "give the config and the class that these weights were saved with"


def open_folder(folder: Path, settings: Settings) -> Loaded:
    """A folder that save_pretrained wrote: config.json and safetensors, in one file or several.

    Raises:
        InputError: no config, no weights, a class that cannot be measured, tensors that do not fit.
    """
    where = printable(folder.name or folder.resolve().name)
    reading.check_folder(folder, where)
    if (folder / "adapter_config.json").is_file():
        hint = "save the whole: `model.merge_and_unload().save_pretrained(FOLDER)`"
        raise InputError("an adapter without its model", where, hint)
    if not (folder / CONFIG).is_file():
        raise InputError(f"no {CONFIG} in the folder", where, "give a folder that save_pretrained wrote, or a file")
    config = reading.plain_json(folder / CONFIG)
    cls = class_of(config, folder, settings)
    tensors = _tensors(folder, where)
    model, spare = restored(cls, configured(cls, config, CONFIG), tensors, where)
    return Loaded(model, where, described(cls.__name__, tensors, "the folder", spare), folder)


def open_config(path: Path, settings: Settings) -> Loaded:
    """A model with random weights from its config.json.

    Raises:
        InputError: no config, or a class that cannot be measured.
    """
    config = reading.plain_json(path)
    cls = class_of(config, path.parent, settings)
    ready = configured(cls, config, CONFIG)
    with seeded(settings.seed), silent(), _refusals(cls, path.name):
        _refuse_beyond_memory(cls, ready, path.name)
        model = cls(ready)
    form = f"{cls.__name__}, weights at random, seed {settings.seed}"
    return Loaded(model.eval(), printable(path.name), form, path.parent, random=True)


def configured(cls: Any, config: Mapping[str, Any], where: str) -> Any:
    """The configuration object of a class.

    Raises:
        InputError: a configuration of another kind of model, quantised, of one that takes more than text or images,
            or refused by the class.
    """
    if config.get("quantization_config"):
        raise InputError("quantised weights are not measured", where, "give the model in float32 or bfloat16")
    kind, own = config.get("model_type"), getattr(cls.config_class, "model_type", None)
    if kind is not None and own and kind != own:
        hint = f"use a class of {printable(kind)}"
        raise InputError(f"a configuration of {printable(kind)}, not of {cls.__name__}", where, hint)
    with silent(), _refusals(cls, where):
        ready = cls.config_class.from_dict({key: value for key, value in config.items() if key not in CHOSEN_HERE})
    refuse_other_inputs(cls, ready, where)
    return ready


def restored(cls: Any, config: Any, tensors: Mapping[str, Tensor], where: str) -> tuple[nn.Module, list[str]]:
    """A model of the class with these weights, in float32 at least, and the names of those that it has no use for.

    transformers converts names of older versions and restores ties whichever of the tied tensors is given; its
    account of what was missing is then judged here, without the exceptions that it makes for trained weights. What
    a file holds besides is of no use to the model where it is a constant, or belongs to a module that the model
    does not have outside of its layers (the pooler of a body, a second head).

    Raises:
        InputError: naming the first tensors that differ; weights that it cannot convert.
    """
    stored = weights.number_format(tensors, where)
    layers = getattr(config, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > max(MANY_LAYERS, len(tensors)):
        found = f"{where}: {layers:,} layers, and {len(tensors):,} tensors in the file"
        raise InputError(f"the tensors do not fit {cls.__name__}", found, SAVED_FROM)
    with silent(), seeded(0), _refusals(cls, where):
        with torch.device("meta"):
            empty = cls(config)
        ties = dict(empty.all_tied_weights_keys)
        clean = weights.unwrapped(tensors, empty.state_dict(), where)
        _refuse_another_size(empty, clean, where)
        try:
            model, account = cls.from_pretrained(
                None,
                config=config,
                state_dict=dict(clean),
                dtype=stored,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                local_files_only=True,
            )
        except RuntimeError:  # tensors under older names that do not come together to those of this version
            misfit = _in_older_names(empty, clean)
            if not misfit:
                raise
            raise misfit.error(where, cls.__name__, SAVED_FROM) from None
    lost = {*account["missing_keys"], *_excused(model, clean)}
    spare = sorted(name for name in account["unexpected_keys"] if _is_spare(name, empty))
    misfit = Misfit(
        missing=sorted(name for name in lost if not name.endswith(weights.COUNTER) and ties.get(name) not in lost),
        unexpected=sorted(set(account["unexpected_keys"]).difference(spare)),
        shapes=sorted((name, tuple(was), tuple(has)) for name, was, has in account["mismatched_keys"]),
    )
    if misfit:
        older = _in_older_names(empty, clean)
        named = older if 0 < len(older) <= len(misfit) else misfit
        raise named.error(where, cls.__name__, SAVED_FROM)
    return weights.owned(model.eval()), spare


def described(architecture: str, tensors: Mapping[str, Tensor], source: str, spare: Sequence[str] = ()) -> str:
    """Class, origin and number format of weights, and those that are not used, in words."""
    formats = {weights.short(t.dtype) for t in tensors.values() if t.is_floating_point()} - {"float32"}
    stored = f", stored as {', '.join(sorted(formats))}" if formats else ""
    count = f"{len(spare):,} of {len(tensors):,} tensors"
    unused = f", not used: {listed(spare, weights.LISTED)} ({count})" if spare else ""
    return f"{architecture}, weights of {source}{stored}{unused}"


def _is_spare(name: str, model: nn.Module) -> bool:
    """Whether the model computes the same with or without a tensor of this name, so that it may be left over."""
    if name.endswith(CONSTANTS):
        return True
    owner = name.rpartition(".")[0]
    return not any(part.isdecimal() for part in owner.split(".")) and owner not in dict(model.named_modules())


@contextmanager
def _refusals(cls: type, where: str) -> Iterator[None]:
    """What transformers raises while it builds a model speaks of the configuration or the file."""
    try:
        yield
    except Exception as error:  # its classes check their configurations with whatever comes to hand
        if isinstance(error, InputError) or out_of_memory(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = printable(" ".join(lines[:2])) or type(error).__name__
        raise InputError(f"{cls.__name__} refuses it", f"{printable(where)}: {reason}", "check the config") from error


def _tensors(folder: Path, where: str) -> dict[str, Tensor]:
    """All tensors of a folder."""
    if (folder / WEIGHTS).is_file():
        return reading.safetensors(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        table = reading.plain_json(folder / INDEX).get("weight_map")
        parts = list(table.values()) if isinstance(table, dict) else []
        if not parts or not all(isinstance(part, str) and Path(part).name == part for part in parts):
            raise InputError("no table of files", INDEX, reading.AGAIN)
        parts = sorted(set(parts))
        absent = next((part for part in parts if not (folder / part).is_file()), None)
        if absent is not None:
            raise InputError("a file of the weights is missing", printable(absent), f"{INDEX} names {len(parts)} files")
        found: dict[str, Tensor] = {}
        for part in parts:
            found.update(reading.safetensors(folder / part))
        return found
    pickled = folder / "pytorch_model.bin"
    if pickled.is_file() or any(folder.glob("pytorch_model*.bin*")):
        hint = "load it with transformers and `save_pretrained` it, which writes safetensors"
        if pickled.is_file():
            named = printable(named_class(reading.plain_json(folder / CONFIG)) or "CLASS")
            hint = f"give the file with its class, `{printable(pickled)} --architecture {named}`, or {hint}"
        raise InputError("weights as pickled pytorch_model.bin", where, hint)
    hint = f"give `{printable(folder / CONFIG)}` for random weights"
    raise InputError(f"no weights ({WEIGHTS}) in the folder", where, hint)


def _refuse_beyond_memory(cls: Any, config: Any, name: str) -> None:
    """Refuse a configuration whose weights alone are more than the machine's memory, before it is filled."""
    with torch.device("meta"), seeded(0):
        size = sum(parameter.numel() for parameter in cls(config).parameters())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if FLOAT32 * size > memory:
        what = f"{size:,} parameters take {FLOAT32 * size / 1e9:,.0f} GB, this machine has {memory / 1e9:,.0f}"
        raise InputError(what, printable(name), "use a smaller configuration")


def _refuse_another_size(empty: Any, tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse a configuration of a much larger model before memory is taken for what the file does not hold."""
    held = sum(tensor.numel() for tensor in tensors.values())
    tied = empty.all_tied_weights_keys
    if sum(p.numel() for name, p in empty.named_parameters() if name not in tied) <= MUCH_LARGER * held:
        return
    plain, older = weights.compared(empty.state_dict(), tensors), _in_older_names(empty, tensors)
    raise min(plain, older, key=len).error(where, type(empty).__name__, SAVED_FROM)


def _in_older_names(empty: Any, tensors: Mapping[str, Tensor]) -> Misfit:
    """How the tensors differ from what files of the class hold, whose names may be older than the model's."""
    from transformers.core_model_loading import revert_weight_conversion

    misfit = weights.compared(revert_weight_conversion(empty, empty.state_dict()), tensors)
    tied = {*empty.all_tied_weights_keys, *empty.all_tied_weights_keys.values()}
    return Misfit([name for name in misfit.missing if name not in tied], misfit.unexpected, misfit.shapes)


def _excused(model: Any, tensors: Mapping[str, Tensor]) -> set[str]:
    """Trained parameters that the class lets be missing, and that the file does lack, untied to any that it has."""
    patterns = "|".join(f"({each})" for each in getattr(model, "_keys_to_ignore_on_load_missing", None) or ())
    if not patterns:
        return set()
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            groups.setdefault(id(parameter), []).append(name)
    inner = f"{model.base_model_prefix}."
    return {
        names[0]
        for names in groups.values()
        if all(re.search(patterns, name) for name in names)
        and not any(name in tensors or name.removeprefix(inner) in tensors for name in names)
    }
