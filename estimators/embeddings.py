"""A vector over a token embedding, by how often its tokens occur in the samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from estimators.heads import IGNORED, input_embedding, transformer
from estimators.problem import Problem
from estimators.results import NO_EMBEDDING

DECILES = 10


def token_deciles(problem: Problem, vector: Mapping[str, Tensor]) -> tuple[list[dict[str, Any]] | None, str]:
    """The vector's sums over the rows of the token embedding, grouped by the tokens' frequency.

    Tokens that occur in the samples (padding apart) are ranked by their count, ties by their number, and cut into
    ten groups of equal size, 1 the rarest; those that never occur are group 0. Each row: tensor, decile, tokens
    (rows of the embedding), least and most (counts), l1 (sum of |v|), share (of the tensor's sum), mean (per
    coordinate), dead_fraction (coordinates that are 0).

    Returns:
        The rows and an empty text, or None and the reason.
    """
    name = _embedding(problem)
    if not name:
        return None, NO_EMBEDDING
    values = vector[name].double().abs()
    counts = _counts(problem, values.shape[0])
    order = torch.sort(counts, stable=True).indices
    seen = order[counts[order] > 0]
    groups = [(0, order[counts[order] == 0]), *enumerate(seen.tensor_split(DECILES), 1)]
    total = float(values.sum())
    rows = []
    for decile, group in groups:
        if not group.numel():
            continue
        part, often = values[group], counts[group]
        rows.append(
            {
                "tensor": name,
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
    return rows, ""


def _embedding(problem: Problem) -> str | None:
    """Name of the parameter whose rows are the tokens: a transformers model's input embedding, else the only one."""
    if not any(not tokens.is_floating_point() for tokens, _ in _tokens(problem)):
        return None
    weight = input_embedding(problem.model)
    if weight is None and transformer(problem.model) is None:
        weights = [module.weight for module in problem.model.modules() if isinstance(module, nn.Embedding)]
        weight = weights[0] if len(weights) == 1 else None
    names = [name for name, parameter in problem.model.named_parameters() if parameter is weight]
    return names[0] if names and names[0] in problem.shapes else None


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
