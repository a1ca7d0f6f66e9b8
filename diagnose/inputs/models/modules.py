"""A module of the user's: what it takes, where it lives, and samples cast to fit it; the object is never changed."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from diagnose.errors import InputError
from diagnose.inputs.data.classes import Classes
from diagnose.inputs.data.objects import Samples
from diagnose.settings import Family, Loss
from estimators.task.model_kinds import evaluating, input_embedding, transformer
from estimators.task.module_state import unchanged


def placed(model: nn.Module, dtype: torch.dtype | None, device: torch.device | None) -> nn.Module:
    """The module itself, or a converted copy where a number format or a device was asked for."""
    if dtype is None and device is None:
        return model
    return copy.deepcopy(model).to(device=device, dtype=dtype)


def home(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Number format and device of the first floating parameter; float32 on the CPU without one."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.dtype, parameter.device
    return torch.float32, torch.device("cpu")


def family(model: nn.Module, samples: Samples) -> Family:
    """Linear for a single linear layer, language for labels at every position, else network."""
    inputs, labels = (None, samples["labels"]) if isinstance(samples, dict) else samples
    if labels.dim() > 1 and (inputs is None or not inputs.is_floating_point()):
        return "language"
    return "linear" if inputs is not None and isinstance(model, nn.Linear) else "network"


def wants_images(model: nn.Module) -> bool:
    """Whether the module convolves in two dimensions."""
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def channels(model: nn.Module) -> int | None:
    """Channels of the images that the first convolution in two dimensions takes; None without one."""
    return next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), None)


def features(model: nn.Module) -> int | None:
    """Numbers of a row that the first linear layer takes; None without one."""
    return next((module.in_features for module in model.modules() if isinstance(module, nn.Linear)), None)


def positions(model: nn.Module) -> int | None:
    """Longest sequence of a transformers model, None where it does not say."""
    inner = transformer(model) or model
    config = getattr(inner, "config", None)
    for name, module in inner.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1  # RoBERTa numbers its positions after the padding's
    for key in ("n_positions", "max_position_embeddings"):
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def vocabulary(model: nn.Module) -> int | None:
    """Tokens that a model knows: rows of its input embedding, else what its config says; None if it tells neither."""
    weight = input_embedding(model)
    if weight is not None:
        return int(weight.shape[0])
    size = getattr(getattr(transformer(model) or model, "config", None), "vocab_size", None)
    return size if isinstance(size, int) and size > 0 else None


def classes(model: nn.Module, output: Any = None, random: bool = False) -> Classes:
    """What a classifier tells apart: by its config, else by what it returned for one sample.

    Args:
        random: its weights are random.
    """
    config = getattr(transformer(model), "config", None)
    outputs = getattr(config, "num_labels", None)
    if isinstance(outputs, int):
        names, doubtful = _class_names(config)
        return Classes(outputs, names, doubtful, random)
    scores = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(scores, Tensor) or scores.dim() not in (1, 2):
        return Classes(None, random=random)
    return Classes(int(scores[:1].numel()), random=random)


def _class_names(config: Any) -> tuple[dict[str, int], frozenset[str]]:
    """The output of each name that a config gives, and the names that it gives to several outputs.

    ``id2label`` is what the model answers with, ``label2id`` what it was trained from; either may hold the generic
    names where only the other one was filled in. Keys and values are whole numbers, or text of them as JSON has it.
    """
    by_number, by_name = getattr(config, "id2label", None), getattr(config, "label2id", None)
    pairs = [(str(name), number) for number, name in by_number.items()] if isinstance(by_number, dict) else []
    pairs += [(str(name), number) for name, number in by_name.items()] if isinstance(by_name, dict) else []
    places: dict[str, set[int]] = {}
    for name, number in pairs:
        whole = int(number) if isinstance(number, str) and number.isdecimal() else number
        if isinstance(whole, int) and not isinstance(whole, bool):
            places.setdefault(name, set()).add(whole)
    names = {name: numbers.pop() for name, numbers in places.items() if len(numbers) == 1}
    return names, frozenset(places.keys() - names.keys())


def returned(model: nn.Module, inputs: Tensor) -> Any:
    """What forward returns for these inputs, in evaluation mode and leaving buffers as they are; an exception of its
    own comes back as the value, since what forward has against the inputs is said when the problem is opened.
    """
    dtype, device = home(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with evaluating(model), unchanged(model), torch.no_grad():
        try:
            return functional_call(model, buffers, (inputs.to(device, dtype, copy=True),))
        except Exception as error:
            return error


def cast(samples: Samples, loss: Loss, dtype: torch.dtype, device: torch.device) -> Samples:
    """Samples on the device: floating inputs in ``dtype``, targets as the loss takes them.

    Raises:
        InputError: targets that are no class numbers, or other than two labels for the logistic loss.
    """

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)

    if isinstance(samples, dict):
        labels = samples["labels"]
        rest = {name: moved(tensor) for name, tensor in samples.items() if name != "labels"}
        return {**rest, "labels": _targets(labels, loss, dtype).to(device)}
    return moved(samples[0]), _targets(samples[1], loss, dtype).to(device)


def _targets(targets: Tensor, loss: Loss, dtype: torch.dtype) -> Tensor:
    if callable(loss):
        return targets.to(dtype) if targets.is_floating_point() else targets
    if loss == "squared":
        return targets.to(dtype)
    if loss == "logistic":
        labels = torch.unique(targets)
        if labels.numel() != 2:
            count = labels.numel()
            raise InputError(f"{count} different labels, the logistic loss takes 2", "targets", "use `cross-entropy`")
        return torch.where(targets == labels[1], 1.0, -1.0).to(dtype)
    if targets.is_floating_point():
        if bool((targets != targets.round()).any()):
            raise InputError("targets are numbers to predict, not classes", "targets", 'use loss="squared"')
        return targets.long()
    return targets.long()
