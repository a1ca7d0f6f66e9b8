"""A module of the user's: what it takes, where it lives, and samples cast to fit it; the object is never changed."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from diagnose.errors import InputError
from diagnose.inputs.data.objects import Samples
from diagnose.inputs.data.targets import Classes
from diagnose.settings import Family, Loss
from estimators.heads import evaluating, input_embedding, transformer


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


def classes(model: nn.Module, inputs: Tensor | None = None) -> Classes | None:
    """What a classifier tells apart: by its config, else by what it returns for these inputs, shape (1, C).

    None where neither tells; what forward has against the inputs is said when the problem is opened.
    """
    config = getattr(transformer(model), "config", None)
    outputs = getattr(config, "num_labels", None)
    if isinstance(outputs, int):
        named = getattr(config, "label2id", None)
        names = named.items() if isinstance(named, dict) else ()
        return Classes(outputs, {str(word): number for word, number in names if isinstance(number, int)})
    if inputs is None:
        return None
    dtype, device = home(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with evaluating(model), torch.no_grad():
        try:
            output = functional_call(model, buffers, (inputs.to(device, dtype),))
        except Exception:
            return None
    return Classes(int(output.shape[1])) if isinstance(output, Tensor) and output.dim() == 2 else None


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
