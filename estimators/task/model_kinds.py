"""What a transformers model is trained for, and what its forward needs to give a loss by sample.

The head is told by the class, found inside whatever wraps it (an adapter, a compiled or parallel module).
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from estimators.errors import InputError

Kind = Literal["causal", "masked", "seq2seq", "sequence", "image"]
KINDS: Mapping[str, Kind] = {
    "ForCausalLM": "causal",
    "WithLMHeadModel": "masked",
    "LMHeadModel": "causal",
    "ForMaskedLM": "masked",
    "ForConditionalGeneration": "seq2seq",
    "ForSequenceClassification": "sequence",
    "ForImageClassification": "image",
}
"""Class names by their ending, the first that fits. Causal models shift their labels by one; those of XLM and Flaubert,
``WithLMHeadModel``, do not; sequence-to-sequence models feed them, shifted, to the decoder."""
IGNORED = -100
WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
"""Classes that wrap a module, and under which name they hold it."""


def unwrapped(model: nn.Module) -> tuple[nn.Module, str]:
    """The module inside what torch.compile and parallel training wrap around it, and what that puts before its names.

    Raises:
        InputError: TorchScript, or parameters that are spread over processes.
    """
    before = ""
    while isinstance(inner := getattr(model, name := WRAPPERS.get(type(model).__name__, ""), None), nn.Module):
        model, before = inner, f"{before}{name}."
    for path, module in model.named_modules():
        where = path or type(model).__name__
        if isinstance(module, torch.jit.ScriptModule):
            hint = "give the torch.nn.Module that it was made from, filled with its state_dict()"
            raise InputError("a TorchScript program, whose parameters cannot be varied", where, hint)
        spread = any(hasattr(parameter, "device_mesh") for parameter in module.parameters(recurse=False))
        if spread or type(module).__name__ == "FullyShardedDataParallel":
            raise InputError("parameters spread over processes are not measured", where, "gather them in one module")
    return model, before


def transformer(model: nn.Module) -> nn.Module | None:
    """The outermost module with a head of :data:`KINDS`: the model itself or what it wraps; None without one."""
    return next((module for module in model.modules() if hasattr(module, "config") and kind(type(module))), None)


def head(model: nn.Module) -> Kind | None:
    """What the model is trained for; None for a module that is no transformers model with a known head.

    Models of images and text are named as if they were encoder-decoders, and are causal: their config says which.
    """
    inner = transformer(model)
    if inner is None:
        return None
    named = kind(type(inner))
    alone = named == "seq2seq" and not getattr(inner.config, "is_encoder_decoder", True)
    return "causal" if alone else named


def kind(cls: type) -> Kind | None:
    """What a class is for, by its own name or that of a class that it extends; None for a head of another kind."""
    names = [base.__name__ for base in cls.__mro__]
    return next((one for name in names for ending, one in KINDS.items() if name.endswith(ending)), None)


def input_embedding(model: nn.Module) -> Tensor | None:
    """The weight whose rows are the tokens, (vocabulary, width), by the rules of transformers; None without one."""
    inner: Any = transformer(model) or model
    try:
        weight = inner.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):
        return None
    return weight if isinstance(weight, Tensor) and weight.dim() == 2 else None


def output_head(model: nn.Module) -> nn.Module | None:
    """The layer with one row of weights for each token that a language model scores, by the rules of transformers."""
    inner: Any = transformer(model)
    if inner is None or kind(type(inner)) not in ("causal", "masked", "seq2seq"):
        return None
    try:
        found = inner.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return found if isinstance(found, nn.Module) else None


def arguments(model: nn.Module) -> dict[str, Any]:
    """What forward is told besides the tensors: no cache of keys and values, which nothing here would read."""
    return {"use_cache": False} if has_argument(model, "use_cache") else {}


def with_decoder_inputs(model: nn.Module, samples: dict[str, Tensor]) -> dict[str, Tensor]:
    """Samples of an encoder-decoder model with the decoder's inputs: the labels, shifted right, as in transformers.

    Raises:
        InputError: the model doesn't say how it makes them.
    """
    inner = transformer(model)
    if inner is None or not getattr(inner.config, "is_encoder_decoder", False):
        return samples
    if "decoder_input_ids" in samples or "decoder_inputs_embeds" in samples or head(model) != "seq2seq":
        return samples
    shift: Any = getattr(inner, "prepare_decoder_input_ids_from_labels", None)
    start, pad = (getattr(inner.config, name, None) for name in ("decoder_start_token_id", "pad_token_id"))
    try:
        if shift is None and isinstance(start, int) and isinstance(pad, int):
            shifted = _shifted(samples["labels"], start, pad)
        else:
            shifted = shift(labels=samples["labels"])
    except (TypeError, ValueError):  # no such method, or a config that lacks what it takes
        hint = (
            "set `decoder_start_token_id` and `pad_token_id` in its config (config.json); in Python a tensor under "
            "`decoder_input_ids` among the samples does as well"
        )
        raise InputError("the decoder has no inputs", type(inner).__name__, hint) from None
    return {**samples, "decoder_input_ids": shifted}


def _shifted(labels: Tensor, start: int, pad: int) -> Tensor:
    """Labels one to the right behind the start token, padding for those that are ignored."""
    shifted = labels.roll(1, dims=-1)
    shifted[..., 0] = start
    return shifted.masked_fill(shifted == IGNORED, pad)


def keeps_logits(model: nn.Module) -> bool:
    """Whether the model can be asked for the logits at some positions alone."""
    return head(model) == "causal" and has_argument(model, "logits_to_keep")


def labelled_positions(samples: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same samples, asking for the logits of those positions alone whose next token carries a label.

    With a large vocabulary the logits are most of the work, and prompts and padding need none. Labels are cut
    alike; the last position stays as the one that the causal loss drops.
    """
    labels = samples["labels"]
    if labels.dim() != 2:
        return samples
    needed = (labels[:, 1:] != IGNORED).any(0)
    columns = needed.nonzero()[:, 0]
    if not columns.numel() or columns.numel() == needed.numel():
        return samples
    first, last = columns.new_zeros(1), columns.new_full((1,), labels.shape[1] - 1)
    kept = {"labels": labels[:, torch.cat([first, columns + 1])], "logits_to_keep": torch.cat([columns, last])}
    return {**samples, **kept}


def lacks_padding(error: BaseException) -> bool:
    """Whether a classifier of transformers refused several rows, as it finds their ends by a padding token."""
    return isinstance(error, ValueError) and "no padding token is defined" in str(error)


def dropout_rates(model: nn.Module) -> list[float]:
    """Rates in a transformers config, for models that hand them to a function, so that no layer shows them."""
    config = getattr(transformer(model), "config", None)
    named = {} if config is None else vars(config)
    return [
        float(value)
        for name, value in named.items()
        if name.endswith(("dropout", "dropout_rate", "pdrop", "dropout_prob")) and isinstance(value, float)
    ]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while it lasts, and the random state put back at its end."""
    training = [module for module in model.modules() if module.training]
    state = torch.random.get_rng_state()
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
        torch.random.set_rng_state(state)


@contextlib.contextmanager
def experts_in_double(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """The plain way through experts while it lasts: the grouped kernel of transformers knows no float64."""
    inner: Any = transformer(model) if dtype == torch.float64 else None
    if getattr(getattr(inner, "config", None), "_experts_implementation", None) in (None, "eager"):
        yield
        return
    snapshot = inner.get_experts_implementation()
    inner.set_experts_implementation("eager")
    try:
        yield
    finally:
        inner.set_experts_implementation(snapshot)


def other_loss(model: nn.Module) -> str | None:
    """What the config of a classifier names in place of one class for each sample; None for cross-entropy."""
    named = getattr(getattr(transformer(model), "config", None), "problem_type", None)
    return str(named) if named in ("regression", "multi_label_classification") else None


def own_loss(model: nn.Module, state: Mapping[str, Tensor], samples: dict[str, Tensor]) -> Tensor | None:
    """The loss that a model computes itself when it is given labels, as those of transformers do; None without one."""
    inner = transformer(model) or model
    if not (accepts(model, "labels") and "labels" in inspect.signature(inner.forward).parameters):
        return None
    config: Any = getattr(inner, "config", None)
    before = getattr(config, "problem_type", None)
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it remarks on the loss that it chooses
    try:
        output = functional_call(model, dict(state), (), {**samples, **arguments(model)})
    finally:
        logger.setLevel(level)
        if getattr(config, "problem_type", None) != before:
            config.problem_type = before  # a classifier writes down there what kind of labels it saw
    loss = getattr(output, "loss", None)
    return loss if isinstance(loss, Tensor) else None


def accepts(model: nn.Module, name: str) -> bool:
    """Whether forward has an argument of this name, or takes any; of what wraps a transformers model, both do."""

    def takes(module: nn.Module) -> bool:
        known = inspect.signature(module.forward).parameters
        return name in known or any(each.kind is each.VAR_KEYWORD for each in known.values())

    return takes(model) and takes(transformer(model) or model)


def has_argument(model: nn.Module, name: str) -> bool:
    """Whether a transformers model has an argument of this name, which what wraps it hands on."""
    inner = transformer(model)
    return inner is not None and name in inspect.signature(inner.forward).parameters and accepts(model, name)
