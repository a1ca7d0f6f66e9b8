"""What a language model sees of the tokens around its labels: a next-token model none of them, a masked one both sides.

The first is told by what it does, not by what it is called.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from estimators.errors import InputError
from estimators.numbers.formats import COARSE
from estimators.task import losses, model_kinds
from estimators.task.function import Function, Parameters, Samples, targets_of
from estimators.task.model_kinds import IGNORED

ROWS = 4
"""Samples among which the one with most labels is taken, and rows that go through the model: it and its variants."""
ROUNDING = 2.0**-16
"""Share of the spread of the scores, in float32 and finer: routing to experts, whose sums get other lengths when other
tokens come, moved a score by up to 7e-7; the least that an encoder with random weights showed was 1.5e-3."""
COARSE_ROUNDING = 2.0**-5
MANY = 6
"""Labels from which on half precision is judged by the middle one of the changes: rounding may send single tokens to
other experts."""
NUDGE = 1e-2
"""Weights that are all 0, as those of gates at their start, would hide what a model sees: they are moved so far."""


@dataclass(frozen=True)
class _Task:
    """One sample of a next-token task.

    Args:
        tokens: what the model reads, shape (T,) or (T, width) for embeddings.
        key: their name among the samples, empty for the inputs of a pair.
        places: where the token of each label is read, shape (m,), ascending.
        shifted: whether the score of a label stands one position before it, as with causal heads.
        pool: tokens that labelled positions hold, which alterations are taken from.
    """

    sample: Samples
    tokens: Tensor
    key: str
    places: Tensor
    shifted: bool
    pool: Tensor


def refuse_one_sided(problem: Function) -> None:
    """InputError for a model of masked tokens whose config lets it see what comes before them alone."""
    inner: Any = model_kinds.transformer(problem.model)
    if model_kinds.head(problem.model) == "masked" and getattr(inner.config, "is_decoder", False) is True:
        what = "the model fills in masked tokens from those before them alone: its config has is_decoder true"
        hint = "set `is_decoder` to false in its config (config.json), or give a class for the next token"
        raise InputError(what, type(inner).__name__, hint)


def refuse_later_tokens(problem: Function) -> None:
    """InputError for a next-token task whose model sees its labels: scores move with tokens that come after them.

    Next-token tasks are those of causal heads and of decoders, and those whose labels are the next inputs. One sample
    goes through with its labelled tokens altered from the first, the middle and the last on; the scores of the labels
    up to there must stay.

    Cost: a forward pass over :data:`ROWS` samples, more where they move or are not finite.
    """
    task = _task(problem) if problem.loss_name == "cross-entropy" else None
    if task is None:
        return
    # Twice, as a sum that other tokens round otherwise may once send a token to another expert.
    if _sees(problem, task, 1) and _sees(problem, task, 2):
        raise _refusal(problem.model)


def _sees(problem: Function, task: _Task, step: int) -> bool:
    """Whether scores move when labelled tokens after them are altered, in the way of this number."""
    count = task.places.numel()
    cuts = sorted({0, count // 2, count - 1})
    rows = _rows(task, cuts, step)
    try:
        scores = _scores(problem, _without_zeros(problem.parameters), rows, task.shifted)
        if not all(bool(torch.isfinite(row).all()) for row in scores):
            scores = _scores(problem, problem.parameters, rows, task.shifted)
    except (IndexError, ValueError):  # forward takes no other tokens, so that nothing can be told
        return False
    coarse = problem.precision in COARSE
    bound = (COARSE_ROUNDING if coarse else ROUNDING) * float(scores[0].double().std())
    changes = [(row - scores[0])[: cut + 1].abs().amax(1) for cut, row in zip(cuts, scores[1:], strict=True)]
    by_most = coarse and count >= MANY
    judged = [each.median() for each in changes[1:]] if by_most else [each.max() for each in changes]
    return any(float(change) > bound for change in judged)


def _task(problem: Function) -> _Task | None:
    """The sample with most labels among the first few; None where no label is a token that is read later."""
    samples = problem.take(slice(0, ROWS))
    inputs, labels = (samples, samples["labels"]) if isinstance(samples, dict) else ({"": samples[0]}, samples[1])
    if labels.dim() != 2 or labels.is_floating_point():
        return None
    kind = model_kinds.head(problem.model)
    shifted = kind == "causal"
    if kind == "seq2seq":
        names = ["decoder_input_ids", "decoder_inputs_embeds"]
    elif shifted:
        names = ["", "input_ids", "inputs_embeds"]
    else:
        names = [name for name, tokens in inputs.items() if name != "labels" and _next_inputs(tokens, labels)]
    key = next((name for name in names if name in inputs), None)
    if key is None or inputs[key].shape[:2] != labels.shape:
        return None
    counted = labels != IGNORED
    # A label is read at its own position by causal heads, one further on by what is fed labels shifted right.
    read = torch.zeros_like(counted)
    read[:, 1:] = counted[:, 1:] if shifted else counted[:, :-1]
    row = int(read.sum(1).argmax())
    places = read[row].nonzero()[:, 0]
    if not places.numel():
        return None
    pool = inputs[key][read]
    one = problem.take(slice(row, row + 1))
    return _Task(one, inputs[key][row], key, places, shifted, pool if pool.is_floating_point() else torch.unique(pool))


def _next_inputs(tokens: Tensor, labels: Tensor) -> bool:
    """Whether every label is the input that follows it, and not just the input beside it."""
    if tokens.shape != labels.shape or tokens.is_floating_point():
        return False
    counted = labels[:, :-1] != IGNORED
    following, beside = (part[counted] == labels[:, :-1][counted] for part in (tokens[:, 1:], tokens[:, :-1]))
    return bool(counted.any()) and bool(following.all()) and not bool(beside.all())


def _rows(task: _Task, cuts: list[int], step: int) -> Samples:
    """The sample as it is and, for each cut, with its labelled tokens altered from there on."""
    tokens = task.tokens.expand(1 + len(cuts), *task.tokens.shape).clone()
    for row, cut in zip(tokens[1:], cuts, strict=True):
        row[task.places[cut:]] = _others(row[task.places[cut:]], task.pool, step)
    if not isinstance(task.sample, dict):
        return tokens, task.sample[1].expand(len(tokens), -1)
    rows = {name: value.expand(len(tokens), *value.shape[1:]) for name, value in task.sample.items()}
    return {**rows, task.key: tokens}


def _others(tokens: Tensor, pool: Tensor, step: int) -> Tensor:
    """The token that stands so many steps further in the pool; where it has one alone, 0 or 1; embeddings turned."""
    if tokens.is_floating_point():
        return -tokens / step
    if pool.numel() == 1:
        return (tokens == 0).to(tokens.dtype)
    return pool[(torch.searchsorted(pool, tokens) + min(step, pool.numel() - 1)) % pool.numel()]


def _without_zeros(parameters: Parameters) -> Parameters:
    """The parameters with those that are all 0 moved a little."""
    generator = torch.Generator().manual_seed(0)
    moved = dict(parameters)
    for name, value in parameters.items():
        if not bool(value.any()):
            moved[name] = (NUDGE * torch.randn(value.shape, generator=generator)).to(value)
    return moved


def _scores(problem: Function, parameters: Parameters, rows: Samples, shifted: bool) -> list[Tensor]:
    """Scores of the labels of each row, shape (m, vocabulary)."""
    rows = problem.trimmed(rows)
    labels = targets_of(rows)
    with torch.no_grad():
        logits = losses.prediction(problem.output(parameters, rows))
    counted = labels[0] != IGNORED
    offset = int(shifted)
    return [row[: len(counted) - 1][counted[offset : len(counted) - 1 + offset]] for row in logits]


def _refusal(model: nn.Module) -> InputError:
    inner: Any = model_kinds.transformer(model)
    name = type(inner or model).__name__
    what = "the model sees the tokens that it is to predict: its scores change with tokens that come after them"
    if inner is not None and getattr(inner.config, "is_decoder", None) is False:
        masked = _masked_class(type(inner))
        other = f", or give {masked} in its place (there under `architectures`)" if masked else ""
        return InputError(what, name, f"set `is_decoder` to true in its config (config.json){other}")
    hint = "mask the positions that come later in its attention, or give a model that fills in masked tokens"
    return InputError(what, name, hint)


def _masked_class(cls: type) -> str | None:
    """The class for masked tokens that stands beside one for the next."""
    for base in cls.__mro__:
        for ending in ("ForCausalLM", "LMHeadModel"):
            name = base.__name__.removesuffix(ending) + "ForMaskedLM"
            if base.__name__.endswith(ending) and hasattr(sys.modules.get(base.__module__), name):
                return name
    return None
