"""A vector over the rows that belong to tokens, by how often these occur in the samples.

Rows of a token embedding are counted by inputs, those of an output head of its own (weights and bias) by labels. Where
one tensor is both, it is an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from estimators.results import NO_EMBEDDING
from estimators.task import losses
from estimators.task.function import targets_of
from estimators.task.model_kinds import IGNORED, head, input_embedding, output_head, transformer
from estimators.task.problem import Problem

DECILES = 10


@dataclass(frozen=True)
class TokenRows:
    """A parameter with a row for each token, (vocabulary, ...), and how often each occurs in its role."""

    name: str
    role: Literal["input", "output"]
    counts: Tensor


def token_deciles(problem: Problem, vector: Mapping[str, Tensor]) -> tuple[list[dict[str, Any]] | None, str]:
    """The vector's sums over the rows of the token embedding and of the output head, grouped by frequency.

    Tokens that occur in the samples (padding apart) are ranked by their count, ties by their number, and cut into
    ten groups of equal size, 1 the rarest; those that never occur are group 0. Each row: tensor, role ("input":
    counted among inputs; "output": among labels), decile, tokens (rows of the tensor), least and most (counts),
    l1 (sum of |v|), share (of the tensor's sum), mean (per coordinate), dead_fraction (coordinates that are 0).

    Returns:
        The rows and an empty text, or None and the reason.
    """
    found = token_rows(problem)
    rows = [row for one in found for row in _by_frequency(one, vector[one.name].double().abs())]
    return (rows, "") if found else (None, NO_EMBEDDING)


def _by_frequency(of: TokenRows, values: Tensor) -> list[dict[str, Any]]:
    order = torch.sort(of.counts, stable=True).indices
    seen = order[of.counts[order] > 0]
    groups = [(0, order[of.counts[order] == 0]), *enumerate(seen.tensor_split(DECILES), 1)]
    total = float(values.sum())
    rows = []
    for decile, group in groups:
        if not group.numel():
            continue
        part, often = values[group], of.counts[group]
        rows.append(
            {
                "tensor": of.name,
                "role": of.role,
                "decile": decile,
                "tokens": group.numel(),
                "least": int(often.min()),
                "most": int(often.max()),
                "l1": float(part.sum()),
                "share": float(part.sum()) / total if total else None,
                "mean": float(part.mean()),
                "dead_fraction": float((part == 0).double().mean()),
            }
        )
    return rows


def token_rows(problem: Problem) -> list[TokenRows]:
    """The embedding, and weight and bias of the output head, as far as they are parameters of the problem."""
    embedding = _embedding(problem)
    layer = output_head(problem.model) or _scoring_layer(problem, embedding)
    found = []
    if (name := _named(problem, embedding)) is not None:
        found.append(TokenRows(name, "input", _counts(problem, len(problem.parameters[name]))))
    for part in (getattr(layer, "weight", None), getattr(layer, "bias", None)):
        if part is not embedding and (name := _named(problem, part)) is not None:
            counts = torch.bincount(_labels(problem), minlength=len(problem.parameters[name]))
            found.append(TokenRows(name, "output", counts))
    return found


def _named(problem: Problem, parameter: object) -> str | None:
    """Name of a parameter of the model; None where it is frozen or the problem has other coordinates."""
    names = [name for name, own in problem.model.named_parameters() if own is parameter]
    return names[0] if names and names[0] in problem.shapes else None


def _embedding(problem: Problem) -> Tensor | None:
    """The parameter whose rows are the tokens: a transformers model's input embedding, else the only one."""
    if not any(not tokens.is_floating_point() for tokens, _ in _tokens(problem)):
        return None
    weight = input_embedding(problem.model)
    if weight is None and transformer(problem.model) is None:
        weights = [module.weight for module in problem.model.modules() if isinstance(module, nn.Embedding)]
        weight = weights[0] if len(weights) == 1 else None
    return weight


def _scoring_layer(problem: Problem, embedding: Tensor | None) -> nn.Module | None:
    """The linear layer whose output is the prediction, in a model of one's own that scores as many tokens as it reads.

    Labels of one class for each sample, and those of another set than the tokens, have no such layer. Costs a forward
    pass over one sample.
    """
    labels = targets_of(problem.samples)
    if embedding is None or transformer(problem.model) is not None or problem.loss_name != "cross-entropy":
        return None
    if labels.dim() < 2:
        return None
    layers = [
        module
        for module in problem.model.modules()
        if isinstance(module, nn.Linear)
        and module.out_features == len(embedding)
        and any(_named(problem, part) for part in (module.weight, module.bias))
    ]
    if not layers:
        return None
    made: list[tuple[nn.Module, Tensor]] = []
    hooks = [layer.register_forward_hook(lambda layer, _, output: made.append((layer, output))) for layer in layers]
    try:
        with problem.measuring(), torch.no_grad():
            scores = losses.prediction(problem.output(problem.parameters, problem.take(slice(0, 1))))
    finally:
        for hook in hooks:
            hook.remove()
    problem.passes.add(1 / (3 * problem.n))
    return next((layer for layer, output in made if output.data_ptr() == scores.data_ptr()), None)


def _tokens(problem: Problem) -> list[tuple[Tensor, Tensor | None]]:
    """Tensors of tokens, and where they are not padding; None: everywhere.

    A decoder reads its answer up to the last label: what it is given there predicts it, and what follows is filled.
    """
    samples = problem.samples
    if not isinstance(samples, dict):
        return [(samples[0], None)]
    found: list[tuple[Tensor, Tensor | None]] = []
    if "input_ids" in samples:
        mask = samples.get("attention_mask")
        found.append((samples["input_ids"], None if mask is None else mask != 0))
    if "decoder_input_ids" in samples:
        mask, labels = samples.get("decoder_attention_mask"), samples["labels"]
        ahead = (labels != IGNORED).flip(-1).cumsum(-1).flip(-1) > 0
        found.append((samples["decoder_input_ids"], ahead if mask is None else mask != 0))
    return found


def _counts(problem: Problem, vocabulary: int) -> Tensor:
    counts = torch.zeros(vocabulary, dtype=torch.int64, device=problem.device)
    for tokens, used in _tokens(problem):
        seen = tokens if used is None or used.shape != tokens.shape else tokens[used]
        counts += torch.bincount(seen.flatten().long(), minlength=vocabulary)[:vocabulary]
    return counts


def _labels(problem: Problem) -> Tensor:
    """The tokens that are to be predicted, one by one: those behind the first for a causal model."""
    labels = targets_of(problem.samples)
    if head(problem.model) == "causal":
        labels = labels[:, 1:]
    return labels[labels != IGNORED].long()
