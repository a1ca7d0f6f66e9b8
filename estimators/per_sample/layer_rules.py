"""Per-sample gradients from one backward pass over a chunk of samples, by rules for the operations that use parameters.

The gradient of an operation's output holds rows of each sample, because a sample's loss depends on its own rows alone.
A rule turns them, and what the operation saved for backward, into the sample's gradient of the parameter. Gradients
summed over the samples are not computed in that pass, which pays for the rules. Uses of one parameter
(``parameter_uses.py``) are added before anything is squared.

Where a graph shows a use without a rule, or rows that cannot be told apart by sample, :class:`Unfit` says so. That rows
lie where they are taken to lie is known for each chunk, not for some of its samples: see ``row_places.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from estimators.per_sample import row_places
from estimators.per_sample.parameter_uses import EMBEDDING, SUM, Plan, Site, Unfit, find, gradients

PRODUCT, NORM = "MulBackward0", "NativeLayerNormBackward0"


@dataclass(frozen=True)
class Use:
    """What a site adds to the gradients of a chunk of m samples.

    ``rows(start, stop)``: of these samples, (stop - start, numbers of the parameter), a tensor of its own.
    ``factors``: (m, a) and (m, b) where sample i's gradient is the outer product of their rows i; else None.
    """

    rows: Callable[[int, int], Tensor]
    factors: tuple[Tensor, Tensor] | None = None


# -- two samples, then chunks ----------------------------------------------------------------------


def survey(losses: Tensor, leaves: Sequence[Tensor], kept: int) -> tuple[Plan, list[Site]]:
    """The plan, and the sites that it stands on, from the losses of two samples: a sample's rows are those that its
    loss alone reaches. Where it reaches none, they are taken to lie as all others do.

    Raises:
        Unfit: a use without a rule, or rows of the two samples that cannot be told apart.
    """
    sites = find(losses.sum(), leaves, 2, RULES)
    found, numbers, told = [], {}, set()
    for site, gradient in zip(sites, gradients(losses[0], sites), strict=True):
        numbers[site.at] = gradient.numel()
        flat = gradient.flatten(0, _leading(site, gradient, leaves[site.parameter].shape) - 1)
        rows, odd = divmod(flat.shape[0], 2)
        if odd or not rows:
            raise Unfit("an operation's output has no sample axis")
        first, inner = bool(flat[:rows].any()), bool(flat[rows:].any())
        if inner and bool(flat[1::2].any()):
            raise Unfit("an operation mixes the rows of the samples")
        if rows > 1:
            told.add(None if not first and not inner else inner)
        found.append(replace(site, rows=rows, minor=inner))
    if None in told and told != {None, False}:
        raise Unfit("no gradient of a sample shows where its rows lie")
    without_graph = tuple(replace(site, node=None, at=None) for site in found)
    return Plan(without_graph, kept, sum(numbers.values()) // 2, row_places.operations(losses, 2)), found


def _leading(site: Site, gradient: Tensor, shape: torch.Size) -> int:
    """How many of the gradient's dimensions count rows."""
    if site.name == NORM:
        return max(1, gradient.dim() - len(site.node._saved_normalized_shape))
    if site.name == EMBEDDING and not site.spread:
        return gradient.dim() - 1
    if site.name == EMBEDDING or site.name in (SUM, PRODUCT, "ExpandBackward0"):
        return max(1, gradient.dim() - len(_broadcast_shape(site, shape)))
    return 1


def _broadcast_shape(site: Site, shape: torch.Size) -> torch.Size:
    """Shape of what a sum or a product repeats along the samples."""
    return torch.Size((*site.node._saved_indices.shape, shape[1])) if site.spread else shape


# -- the rules -------------------------------------------------------------------------------------
# A rule takes the site, the gradient of its output as (m, T, ...) and the parameter's shape.


def planned_uses(plan: Plan, losses: Tensor, leaves: Sequence[Tensor], kept: int) -> tuple[list[list[Use]], bool]:
    """For each leaf its uses in the graph of a chunk's losses, and whether the places of the samples' rows took a
    proof: a second backward pass down to the uses. ``kept``: positions with logits in the chunk.

    Raises:
        Unfit: the graph is not that of the plan, or rows do not lie where they do in the plan.
    """
    samples = len(losses)
    sites = plan.placed(find(losses.sum(), leaves, samples, RULES, plan))
    fixed = samples == 1 or row_places.as_planned(plan.operations, row_places.operations(losses, samples), samples)
    weights = None if fixed else row_places.weights(samples, leaves[0].dtype)
    return uses(sites, losses, leaves, (plan.kept, kept), weights), not fixed


def uses(
    sites: Sequence[Site],
    losses: Tensor,
    leaves: Sequence[Tensor],
    kept: tuple[int, int] = (0, 0),
    weights: Tensor | None = None,
) -> list[list[Use]]:
    """For each leaf its uses, whose gradients are to be added (:func:`rows`); no use where no sample reaches it.

    ``kept``: positions with logits in the plan and here. ``weights``: of the samples, by which it is proved that each
    row belongs to one.

    Raises:
        Unfit: other rows than in the plan, or an operation in a form without a rule.
    """
    parts = gradients(losses.sum(), sites)
    found: list[list[Use]] = [[] for _ in leaves]
    with torch.no_grad():
        for site, part in zip(sites, parts, strict=True):
            found[site.parameter].append(_use(site, part, leaves[site.parameter].shape, len(losses), kept))
    if weights is not None:
        _prove(sites, parts, gradients((weights.to(losses) * losses).sum(), sites), leaves, weights)
    return found


def _prove(
    sites: Sequence[Site], parts: Sequence[Tensor], weighted: Sequence[Tensor], leaves: Sequence[Tensor], by: Tensor
) -> None:
    """Raises Unfit where a row of the parts is not that of its one sample."""
    with torch.no_grad():
        for site, part, again in zip(sites, parts, weighted, strict=True):
            leading = _leading(site, part, leaves[site.parameter].shape)
            here = replace(site, rows=part.shape[:leading].numel() // len(by))
            plain, scaled = (_by_sample(here, each.flatten(0, leading - 1), len(by)) for each in (part, again))
            if row_places.misplaced(plain, scaled, by):
                raise Unfit("rows of the samples lie in an order that the data decide, or samples share them")


def rows(of: Sequence[Use], start: int, stop: int) -> Tensor:
    """Gradients of one parameter: the sum over its uses, (stop - start, numbers)."""
    total = of[0].rows(start, stop)
    for use in of[1:]:
        total += use.rows(start, stop)
    return total


def _use(site: Site, gradient: Tensor, shape: torch.Size, samples: int, kept: tuple[int, int]) -> Use:
    flat = gradient.flatten(0, _leading(site, gradient, shape) - 1)
    rows, odd = divmod(flat.shape[0], samples)
    if odd or (rows != site.rows and (site.rows, rows) != kept):
        raise Unfit("an operation has another number of rows for other samples")
    if site.name == PRODUCT:
        other = site.node._saved_other if site.slot == 0 else site.node._saved_self
        flat = (gradient * other).reshape(flat.shape)
    rule = RULES[site.name, site.slot]
    if site.turned and rule is not _linear:
        raise Unfit("a transpose is used in another way than in a product")
    here = site if rows == site.rows else replace(site, rows=rows)
    return rule(here, _by_sample(here, flat, samples), shape)


def _by_sample(site: Site, rows: Tensor, samples: int) -> Tensor:
    """(m T, ...) -> (m, T, ...)."""
    if site.minor:
        return rows.reshape(site.rows, samples, *rows.shape[1:]).transpose(0, 1)
    return rows.reshape(samples, site.rows, *rows.shape[1:])


def _whole(each: Tensor) -> Use:
    """A use with few numbers: the gradients of all samples at once, (m, *shape of the parameter)."""
    flat = each.reshape(len(each), -1)  # a number of its own for each sample has no second dimension
    return Use(lambda start, stop: flat[start:stop].clone())


def _linear(site: Site, gradient: Tensor, shape: torch.Size) -> Use:
    """y = x W in addmm and mm: the sum over rows of x' g; for a turned W, g' x. In mv W is one column."""
    if site.name == "AddmmBackward0" and site.node._saved_alpha != 1:
        raise Unfit("a scaled product")
    inputs = site.node._saved_mat1 if site.name == "AddmmBackward0" else site.node._saved_self
    left, right = _by_sample(site, inputs, gradient.shape[0]), gradient
    if site.name == "MvBackward0":
        right = gradient.unsqueeze(-1)
    if site.turned:
        left, right = right, left
    if site.rows == 1:
        a, b = left[:, 0], right[:, 0]
        return Use(lambda start, stop: (a[start:stop, :, None] * b[start:stop, None]).flatten(1), (a, b))
    return Use(lambda start, stop: torch.bmm(left[start:stop].mT, right[start:stop]).flatten(1))


def _linear_bias(site: Site, gradient: Tensor, shape: torch.Size) -> Use:
    if site.node._saved_beta != 1 or shape.numel() != gradient.shape[-1]:
        raise Unfit("a scaled or repeated bias")
    return _whole(_over_rows(gradient))


def _convolution(site: Site, gradient: Tensor, shape: torch.Size) -> Use:
    """The samples as groups of one grouped convolution, whose weights' gradient torch's own kernel knows."""
    node, x = site.node, _by_sample(site, site.node._saved_input, gradient.shape[0])
    form = (node._saved_stride, node._saved_padding, node._saved_dilation, node._saved_transposed)

    def rows(start: int, stop: int) -> Tensor:
        m = stop - start
        side = [t[start:stop].transpose(0, 1).flatten(1, 2) for t in (gradient, x)]  # (T, m C, ...)
        weight = x.new_empty(m * shape[0], *shape[1:])  # its shape counts, not its numbers
        mask = (node._saved_output_padding, m * node._saved_groups, (False, True, False))
        out: Tensor = torch.ops.aten.convolution_backward(*side, weight, None, *form, *mask)[1]
        return out.reshape(m, -1)

    return Use(rows)


def _channels(site: Site, gradient: Tensor, shape: torch.Size) -> Use:
    """A bias for each channel."""
    return _whole(_by_channel(gradient))


def _over_rows(gradient: Tensor) -> Tensor:
    """(m, T, ...) -> (m, ...)."""
    return gradient[:, 0] if gradient.shape[1] == 1 else gradient.sum(1)


def _by_channel(gradient: Tensor) -> Tensor:
    """(m, T, C, ...) -> (m, C)."""
    return gradient.flatten(3).sum((1, 3)) if gradient.dim() > 3 else _over_rows(gradient)


def _shift(site: Site, gradient: Tensor, shape: torch.Size) -> Use:
    """A bias for each number of a row."""
    return _whole(_over_rows(gradient))


def _layer_norm(site: Site, gradient: Tensor, shape: torch.Size) -> Use:
    node = site.node
    standard = (node._saved_input - node._saved_result1) * node._saved_result2
    flat = standard.flatten(0, standard.dim() - len(shape) - 1)
    return _whole(_over_rows(gradient * _by_sample(site, flat, gradient.shape[0])))


def _group_norm(site: Site, gradient: Tensor, shape: torch.Size) -> Use:
    node = site.node
    grouped = node._saved_input.reshape(node._saved_N, node._saved_group, -1)
    standard = (grouped - node._saved_result1.unsqueeze(-1)) * node._saved_result2.unsqueeze(-1)
    x = _by_sample(site, standard.reshape(node._saved_input.shape), gradient.shape[0])
    return _whole(_by_channel(gradient * x))


def _batch_norm(site: Site, gradient: Tensor, shape: torch.Size) -> Use:
    """With stored statistics: a scale and a shift for each channel."""
    node = site.node
    if node._saved_training:
        raise Unfit("a batch norm over the samples")
    across = (-1,) + (1,) * (node._saved_input.dim() - 2)
    scale = (node._saved_running_var + node._saved_eps).rsqrt()
    centred = node._saved_input - node._saved_running_mean.reshape(across)
    return _whole(_by_channel(gradient * _by_sample(site, centred, gradient.shape[0])) * scale)


def _batch_norm_bias(site: Site, gradient: Tensor, shape: torch.Size) -> Use:
    if site.node._saved_training:
        raise Unfit("a batch norm over the samples")
    return _channels(site, gradient, shape)


def _broadcast(site: Site, gradient: Tensor, shape: torch.Size) -> Use:
    """w + x, w x, and w expanded along the samples (products have their other factor in the gradient)."""
    if site.name == SUM and site.slot == 1 and site.node._saved_alpha != 1:
        raise Unfit("a scaled sum")
    return _whole(_repeated(gradient, shape))


def _repeated(gradient: Tensor, shape: torch.Size) -> Tensor:
    """(m, T, ...) -> (m, ...), summed over the dimensions that a tensor of this shape was repeated along."""
    each = _over_rows(gradient)
    ends = shape[len(shape) - each.dim() + 1 :] if each.dim() > 1 else torch.Size()
    if torch.Size((1,) * (len(shape) - len(ends))) != shape[: len(shape) - len(ends)]:
        raise Unfit("a sum or product without a sample axis")
    dims = [i for i, size in enumerate(ends, 1) if size == 1 and each.shape[i] != 1]
    return each.sum(dims, keepdim=True) if dims else each


def _repeat(site: Site, gradient: Tensor, shape: torch.Size) -> Use:
    """A vector repeated for each sample, as instance norm does with its channels: (m, T) is (m, C)."""
    if len(shape) != 1 or gradient.shape[1:] != shape:
        raise Unfit("a parameter repeated in another way than once for each sample")
    return _whole(gradient)


def _embedding(site: Site, gradient: Tensor, shape: torch.Size) -> Use:
    node = site.node
    if node._saved_scale_grad_by_freq:
        raise Unfit("an embedding whose gradient depends on the frequencies in the chunk")
    m, index = gradient.shape[0], node._saved_indices
    if site.spread:
        g = _repeated(gradient, _broadcast_shape(site, shape)).reshape(m, -1, shape[1])
        tokens = index.reshape(1, -1).expand(m, -1)
    else:
        g, tokens = gradient, _by_sample(site, index.flatten(), m)
    if 0 <= node._saved_padding_idx < shape[0]:  # older torch gives -1, for none, without its sign
        g = g.masked_fill((tokens == node._saved_padding_idx).unsqueeze(-1), 0)

    def rows(start: int, stop: int) -> Tensor:
        out = g.new_zeros((stop - start) * shape[0], shape[1])
        first = shape[0] * torch.arange(stop - start, device=g.device)[:, None]
        out.index_add_(0, (tokens[start:stop] + first).flatten(), g[start:stop].reshape(-1, shape[1]))
        return out.reshape(stop - start, -1)

    return Use(rows)


Rule = Callable[[Site, Tensor, torch.Size], Use]
RULES: dict[tuple[str, int], Rule] = {
    ("AddmmBackward0", 0): _linear_bias,
    ("AddmmBackward0", 2): _linear,
    ("MmBackward0", 1): _linear,
    ("MvBackward0", 1): _linear,
    ("ConvolutionBackward0", 1): _convolution,
    ("ConvolutionBackward0", 2): _channels,
    (NORM, 1): _layer_norm,
    (NORM, 2): _shift,
    ("NativeGroupNormBackward0", 1): _group_norm,
    ("NativeGroupNormBackward0", 2): _channels,
    ("NativeBatchNormBackward0", 1): _batch_norm,
    ("NativeBatchNormBackward0", 2): _batch_norm_bias,
    (SUM, 0): _broadcast,
    (SUM, 1): _broadcast,
    (PRODUCT, 0): _broadcast,
    (PRODUCT, 1): _broadcast,
    ("ExpandBackward0", 0): _broadcast,
    ("RepeatBackward0", 0): _repeat,
    (EMBEDDING, 0): _embedding,
}
"""By operation and by the input that is the parameter."""
