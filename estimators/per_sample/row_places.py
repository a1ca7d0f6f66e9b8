"""Whether the rows of a chunk's gradients lie where the plan of the layer rules says, at the place of their sample.

Two ways to know. The operations between the losses and the uses of the parameters may be those of the plan, all of a
kind whose places follow from shapes: then no number of the data moves a row, and what two samples showed holds for all.
Else the chunk proves itself: with weights c_i on the losses a row that sample i alone reaches becomes c_i times what it
was, one that another sample reaches too does not. That takes a second backward pass down to those uses, a third of a
forward+backward pass, and covers each row of each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from estimators.per_sample.parameter_uses import ACCUMULATE, EMBEDDING, TURNS, Operation

INDEX = "IndexBackward0"
LAST = 1 << 63
"""Dimensions counted from the end are saved as numbers above."""

Details = tuple[tuple[int, ...], tuple[int, ...]] | None

PLAIN = frozenset(
    f"{name}Backward0"
    for name in (
        # number by number
        *("Abs", "Add", "Alias", "Clamp", "ClampMax", "ClampMin", "Clone", "Cos", "Div", "Elu", "Erf", "Exp", "Gelu"),
        *("Hardsigmoid", "Hardswish", "Hardtanh", "LeakyRelu", "LogSigmoid", "Log1P", "Log", "MaskedFill", "Mish"),
        *("Mul", "Neg", "Pow", "Reciprocal", "Relu", "Rsqrt", "Rsub", "Sigmoid", "Silu", "Sin", "Softplus", "Sqrt"),
        *("Sub", "Tanh", "ToCopy", "Where"),
        # one shape for another
        *("ConstantPadNd", "Expand", "ReshapeAlias", "Squeeze", "T", "UnsafeView", "Unsqueeze", "View"),
        # within rows and images
        *("AdaptiveAvgPool2D", "AvgPool2D", "LogSoftmax", "MaxPool2DWithIndices", "MseLoss", "NativeBatchNorm"),
        *("NativeGroupNorm", "NativeLayerNorm", "NllLoss", "SafeSoftmax", "Softmax"),
    )
) | {"AddBackward1", "ClampBackward1", "DivBackward1", "MulBackward1", "PowBackward1", "SqueezeBackward1"}


def operations(losses: Tensor, samples: int) -> tuple[Operation, ...] | None:
    """The operations behind the losses of so many samples, in an order that the graph alone decides; None where one
    of them may move rows by what the data say.

    Named for what is known to keep places; whatever is not named counts as one that may not.
    """
    waiting: list[Any] = [] if losses.grad_fn is None else [losses.grad_fn]
    seen, found = set(waiting), []
    while waiting:
        node = waiting.pop()
        details = _details(node, samples)
        if details is None:
            return None
        found.append((node.name(), *details))
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                waiting.append(after)
    return tuple(found)


def as_planned(planned: Sequence[Operation] | None, here: Sequence[Operation] | None, samples: int) -> bool:
    """Whether the operations of a chunk are those of the plan, so that its places are the plan's too.

    A sum over a size that grew with the samples may be one over them, weighted by a mask; and as long as there are two
    of them, as in the plan, no size tells them from the places that an index chooses.
    """
    if planned is None or here is None or len(planned) != len(here):
        return False
    for (name, fixed, sizes), (name_here, fixed_here, sizes_here) in zip(planned, here, strict=True):
        if name != name_here or fixed != fixed_here or len(sizes) != len(sizes_here):
            return False
        if samples == 2 and name == INDEX:
            return False
        for size, size_here in zip(sizes, sizes_here, strict=True):
            if size_here % samples == 0 and (size_here != size or size == samples == 2):
                return False
    return True


def weights(samples: int, dtype: torch.dtype) -> Tensor:
    """A power of two for each sample, (m,) float64, in a seeded random order: products with them round nothing, so what
    they scale stays comparable in any number format. All different up to 64 samples (8 in float16, of small range)."""
    powers = 8 if dtype == torch.float16 else 64
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(samples))
    return torch.exp2((order % powers).double() - powers // 2)


def misplaced(plain: Tensor, weighted: Tensor, weights: Tensor) -> bool:
    """Whether rows of the gradient of the sum, (m, T, ...) with the samples as planned, and those of the weighted sum
    are not each its sample's weight apart."""
    rough = min(4096 * torch.finfo(plain.dtype).eps, 0.1)
    each = weights.to(plain.device, plain.dtype)
    size = plain.flatten(1).abs().amax(1)
    off = (weighted - each.reshape(-1, *(1,) * (plain.dim() - 1)) * plain).flatten(1).abs().amax(1)
    return not bool((off <= rough * each * (size + size.max() / 64)).all())


# -- what decides where rows go --------------------------------------------------------------------


def _details(node: Any, samples: int) -> Details:
    name: str = node.name()
    if name in PLAIN or name == ACCUMULATE:
        return (), ()
    read = DETAILS.get(name)
    return None if read is None else read(node, samples)


def _share(size: int, samples: int) -> tuple[int, ...] | None:
    """Of a size that counts samples: how much of it is each one's."""
    return None if size % samples else (size // samples,)


def _inner(node: Any, samples: int, dims: Sequence[int], *numbers: int) -> Details:
    """An operation along dimensions behind the one of the samples, with what else it depends on."""
    sizes = node._saved_self_sym_sizes
    at = [dim - (1 << 64) + len(sizes) if dim >= LAST else dim for dim in dims]
    share = _share(sizes[0], samples) if sizes else None
    return None if share is None or min(at) < 1 else ((*share, *at, *numbers), ())


def _summed(node: Any, samples: int) -> Details:
    inner = _inner(node, samples, node._saved_dim)
    if inner is None:
        return None
    sizes = node._saved_self_sym_sizes
    return inner[0], tuple(sizes[dim] for dim in inner[0][1:])


def _index(node: Any, samples: int) -> Details:
    """Some places of every sample, as those with labels."""
    at = [dim for dim, index in enumerate(node._saved_indices) if index is not None]
    return _inner(node, samples, at) if len(at) == 1 else None


def _joined(node: Any, samples: int) -> Details:
    dim = node._saved_dim
    return ((dim, len(node.next_functions)), ()) if dim else None


def _product(node: Any, samples: int) -> Details:
    """Rows times a matrix that is a parameter or a constant."""
    left, right = ("mat1", 2) if node.name() == "AddmmBackward0" else ("self", 1)
    matrix = node.next_functions[right][0]
    sizes = getattr(node, f"_saved_{left}_sym_sizes")
    share = _share(sizes[0], samples)
    return None if share is None or not (matrix is None or _leaf(matrix)) else (share, ())


def _vector_product(node: Any, samples: int) -> Details:
    return ((), ()) if _leaf(node.next_functions[1][0]) else None


def _batched(node: Any, samples: int) -> Details:
    """Products of a matrix for each sample, or for each of its heads."""
    side = node._saved_self if node._saved_self is not None else node._saved_mat2
    share = _share(side.shape[0], samples)
    return None if share is None else (share, ())


def _convolution(node: Any, samples: int) -> Details:
    matrix = node.next_functions[1][0]
    share = _share(node._saved_input.shape[0], samples)
    return None if share is None or not (matrix is None or _leaf(matrix)) else (share, ())


def _lookup(node: Any, samples: int) -> Details:
    """Rows of a table that is a parameter; those of activations could be in any order."""
    return ((), ()) if _leaf(node.next_functions[0][0]) else None


def _leaf(node: Any) -> bool:
    while node is not None and node.name() in TURNS:
        node = node.next_functions[0][0]
    return node is not None and node.name() == ACCUMULATE


DETAILS: Mapping[str, Callable[[Any, int], Details]] = {
    "PermuteBackward0": lambda node, samples: (tuple(node._saved_dims), ()),
    "TransposeBackward0": lambda node, samples: ((node._saved_dim0, node._saved_dim1), ()),
    "SelectBackward0": lambda node, samples: _inner(node, samples, [node._saved_dim], node._saved_index),
    "SliceBackward0": lambda node, samples: _inner(
        node, samples, [node._saved_dim], node._saved_start, node._saved_step
    ),
    "SplitBackward0": lambda node, samples: _inner(node, samples, [node._saved_dim], node._saved_split_size),
    "UnsafeSplitBackward0": lambda node, samples: _inner(node, samples, [node._saved_dim], node._saved_split_size),
    "SplitWithSizesBackward0": lambda node, samples: _inner(node, samples, [node._saved_dim], *node._saved_split_sizes),
    INDEX: _index,
    "SumBackward1": _summed,
    "MeanBackward1": _summed,
    "CatBackward0": _joined,
    "StackBackward0": _joined,
    "MmBackward0": _product,
    "AddmmBackward0": _product,
    "MvBackward0": _vector_product,
    "BmmBackward0": _batched,
    "ConvolutionBackward0": _convolution,
    EMBEDDING: _lookup,
}
