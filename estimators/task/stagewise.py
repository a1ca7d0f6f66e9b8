"""Second derivatives of plain networks in closed form, layer by layer.

For one sample, with z_l = W_l a_(l-1) + b_l and a_l = phi_l(z_l), the loss's slopes e_l in a_l and delta_l = phi_l' e_l
in z_l, the curvature in z_l follows from the one above it,

    C_l = phi_l' W_(l+1)' C_(l+1) W_(l+1) phi_l' + diag(phi_l'' e_l),

from the loss's own at the top (Mizutani & Dreyfus, "Second-order stagewise backpropagation", Neural Networks 2008;
for the diagonal Dangel, Kunstner & Hennig, "BackPACK", ICLR 2020). H is the sum over the samples, for layers l <= m, of

    (dz_m/dz_l)' C_m x a_(l-1) a_(m-1)'  +  (da_(m-1)/dz_l)' x a_(l-1) delta_m',

the second term between two layers alone. Whatever has many columns is one matrix product. Samples, N, stand first in
every tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from estimators.task.plain_networks import Layer, Passed, PlainNetwork

CACHED = 1 << 20
"""Numbers of all layers that are on the way at once in a product: more leave the cache. An MLP 61-64-64-10 takes 0.65
ms for each of 8 columns on 512 samples, 0.75 of 16 and 0.9 of 32 (one thread)."""

# -- the diagonal ----------------------------------------------------------------------------------


def diagonal(network: PlainNetwork, dtype: torch.dtype) -> Tensor:
    """diag(H), (d,), worked out in a format and summed over parts of the samples in float64.

    Cost: :func:`diagonal_passes`.
    """
    problem, layers = network.problem, network.layers
    weights = network.weights(dtype)
    found = torch.zeros(problem.d, dtype=torch.float64, device=problem.device)
    most = max(len(weight) for weight in weights)
    for passed in network.passed(dtype, most * most):
        for number, own in _own_diagonals(passed, weights):
            layer, x = layers[number], passed.inputs[number]
            found[layer.weight_at] += (own.T @ x.square()).reshape(-1)
            if layer.bias_at is not None:
                found[layer.bias_at] += own.sum(0)
    problem.passes.add(diagonal_passes(network))
    return found.div_(problem.n)


def diagonal_passes(network: PlainNetwork) -> float:
    """A pass, which multiplies three times for each parameter and sample, and for what multiplies beyond it."""
    multiplied, bent = 0.0, False
    for number in range(len(network.layers) - 1, 0, -1):
        layer = network.layers[number]
        bent = bent or layer.bends
        outputs, inputs = layer.shape
        rows = network.shapes[-1][0] if not bent else outputs + (inputs if number > 1 else 0)
        multiplied += rows * outputs * inputs
    return 1 + multiplied / (3 * network.problem.d)


def _own_diagonals(passed: Passed, weights: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Of each layer from the top: its number and diag(C), (N, outputs).

    C goes down as the loss's root R, C = R'R, of as many rows as there are outputs, until a function has bent.
    """
    eye = torch.eye(passed.top.weight.shape[1], dtype=torch.float64, device=passed.top.weight.device)
    root, whole = passed.top.root(eye[:, None]).transpose(0, 1).contiguous().to(weights[-1].dtype), None
    own = root.square().sum(1)
    for number in range(len(weights) - 1, -1, -1):
        weight, slope, bend = weights[number], passed.slopes[number], passed.bends[number]
        if slope is not None:
            own = own * slope.square()
        if bend is not None:
            own = own + bend
        if number == 0:
            yield number, own
            return
        if whole is None and bend is None:
            root = root if slope is None else root * slope[:, None]
            below = root @ weight
            yield number, own
            root, own = below, below.square().sum(1)
            continue
        whole = root.mT @ root if whole is None else whole
        if slope is not None:
            whole = whole * slope[:, :, None] * slope[:, None]
        if bend is not None:
            whole.diagonal(dim1=1, dim2=2).add_(bend)
        half = whole @ weight
        yield number, own
        own = (half * weight).sum(1)
        if number > 1:
            whole = half.mT @ weight


# -- the whole matrix ------------------------------------------------------------------------------


def formed(network: PlainNetwork) -> Tensor:
    """H, (d, d), in float64, symmetric to the bit. Cost: :func:`forming_passes`."""
    problem, layers = network.problem, network.layers
    weights = network.weights(torch.float64)
    sizes = [outputs * inputs for outputs, inputs in network.shapes]
    spans = [slice(sum(sizes[:k]), sum(sizes[: k + 1])) for k in range(len(sizes))]
    by_layer = torch.zeros(problem.d, problem.d, dtype=torch.float64, device=problem.device)
    for passed in network.passed(torch.float64, _numbers(network)):
        curvatures = _curvatures(passed, weights)
        inputs = [_with_ones(x, layer.bias) for x, layer in zip(passed.inputs, layers, strict=True)]
        for low, x in enumerate(inputs):
            by_layer[spans[low], spans[low]] += _own_block(curvatures[low], x)
            inner = None
            for high in range(low + 1, len(layers)):
                y, slope = inputs[high], passed.slopes[high - 1]
                if inner is not None:  # (dz/dz_low)' of the layer below, (N, outputs of low, outputs of it)
                    inner = inner if slope is None else inner * slope[:, None]
                    reach = inner @ weights[high].T
                else:
                    slope = x.new_ones(len(x), len(weights[low])) if slope is None else slope
                    reach = slope[:, :, None] * weights[high].T
                block = _contracted(reach @ curvatures[high], x, y)
                _add_bent(block, slope, inner, x, passed.deltas[high])
                block = block.reshape(sizes[low], sizes[high])
                by_layer[spans[low], spans[high]] += block
                by_layer[spans[high], spans[low]] += block.T
                inner = reach
    problem.passes.add(forming_passes(problem.d))
    order = torch.cat([_order(layer) for layer in layers]).to(problem.device)
    matrix = torch.empty_like(by_layer)
    matrix[order[:, None], order] = (by_layer + by_layer.T).div_(2 * problem.n)
    return matrix


def _with_ones(x: Tensor, bias: str | None) -> Tensor:
    return x if bias is None else torch.cat([x, x.new_ones(len(x), 1)], 1)


def _order(layer: Layer) -> Tensor:
    """The coordinates of (W, b), row by row."""
    places = torch.arange(layer.weight_at.start, layer.weight_at.stop).reshape(layer.shape)
    if layer.bias_at is not None:
        places = torch.cat([places, torch.arange(layer.bias_at.start, layer.bias_at.stop)[:, None]], 1)
    return places.reshape(-1)


def forming_passes(d: int) -> float:
    """A pass, and a third of one for each parameter: no fewer than what multiplies, d numbers for each parameter and
    sample, where a pass does three."""
    return 1 + d / 3


def _numbers(network: PlainNetwork) -> int:
    """Numbers for each sample in the largest tensors on the way to H."""
    pairs = [(p * r, q, s) for k, (p, q) in enumerate(network.shapes) for r, s in network.shapes[k:]]
    return max(min(a + q * s, a * q + s) for a, q, s in pairs)


def _curvatures(passed: Passed, weights: Sequence[Tensor]) -> list[Tensor]:
    """C of each layer, (N, outputs, outputs)."""
    found: list[Tensor] = []
    whole = passed.top.matrix()
    for weight, slope, bend in zip(reversed(weights), reversed(passed.slopes), reversed(passed.bends), strict=True):
        if slope is not None:
            whole = whole * slope[:, :, None] * slope[:, None]
        if bend is not None:
            whole.diagonal(dim1=1, dim2=2).add_(bend)
        found.append(whole)
        if len(found) < len(weights):
            whole = (whole @ weight).mT @ weight
    return found[::-1]


def _own_block(curvature: Tensor, x: Tensor) -> Tensor:
    """Sum over the samples of C x xx', as a matrix; C (N, p, p) is symmetric."""
    p, q = curvature.shape[1], x.shape[1]
    i, j = torch.triu_indices(p, p, device=x.device)
    above = _contracted(curvature[:, i, j][:, :, None], x, x)[:, :, 0]
    block = x.new_empty(p, q, p, q)
    block[i, :, j] = above
    block[j, :, i] = above
    return block.reshape(p * q, p * q)


def _contracted(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sum over the samples of t[r, p] x[s] y[q], in the order (r, s, p, q), by one product of two matrices."""
    n, r, p = t.shape
    s, q = x.shape[1], y.shape[1]
    t = t.reshape(n, r * p)
    if r * p + s * q < r * p * s + q:
        found = t.T @ (x[:, :, None] * y[:, None]).reshape(n, s * q)
    else:
        found = (t[:, :, None] * x[:, None]).reshape(n, r * p * s).T @ y
    return found.reshape(r, p, s, q).permute(0, 2, 1, 3)


def _add_bent(block: Tensor, slope: Tensor | None, inner: Tensor | None, x: Tensor, delta: Tensor) -> None:
    """Adds the sum of inner[r, q] x[s] delta[p] to a block (r, s, p, q), which has a last q more for a bias.

    ``inner`` None stands for the diagonal matrix of the slope.
    """
    n, s, p = len(x), x.shape[1], delta.shape[1]
    if inner is None:
        assert slope is not None
        found = (slope[:, :, None] * delta[:, None]).reshape(n, -1).T @ x
        block.diagonal(dim1=0, dim2=3).add_(found.reshape(-1, p, s).permute(2, 1, 0))
        return
    found = inner.reshape(n, -1).T @ (x[:, :, None] * delta[:, None]).reshape(n, s * p)
    block[..., : inner.shape[2]] += found.reshape(inner.shape[1], inner.shape[2], s, p).permute(0, 2, 3, 1)


# -- products --------------------------------------------------------------------------------------


def products(network: PlainNetwork) -> Callable[[Tensor], Tensor]:
    """V (d, k) -> n H V, (d, k), in the parameters' format, float64 where it is a sum over several parts.

    Pearlmutter's derivative of a pass ("Fast exact multiplication by the Hessian", 1994) along all columns at once.
    """
    problem = network.problem
    weights = network.weights(problem.dtype)
    widest = sum(max(shape) for shape in network.shapes)
    parts = list(network.passed(problem.dtype, widest))
    most = max(1, CACHED // (widest * max(len(passed.inputs[0]) for passed in parts)))

    def apply(block: Tensor) -> Tensor:
        dtype = torch.float64 if len(parts) > 1 else block.dtype
        image = torch.zeros(block.shape[1], block.shape[0], dtype=dtype, device=block.device)
        for columns, into in zip(torch.split(block.T.contiguous(), most), torch.split(image, most), strict=True):
            for passed in parts:
                _add_images(network.layers, weights, passed, columns, into)
        return image.T

    return apply


def _add_images(layers: Sequence[Layer], weights: Sequence[Tensor], passed: Passed, rows: Tensor, into: Tensor) -> None:
    """Adds the sum over some samples of H times each of the rows (k, d); on the way they lie in (samples, k, numbers),
    side by side for every product of two matrices."""
    n, k = len(passed.deltas[0]), len(rows)
    along = [rows[:, layer.weight_at].reshape(k, *layer.shape) for layer in layers]
    moved: list[Tensor | None] = []  # along the rows: inputs of each layer, None for the network's, then outputs
    turned, r = [], None
    for layer, weight, x, slope, v in zip(layers, weights, passed.inputs, passed.slopes, along, strict=True):
        moved.append(r)
        z = (x @ v.reshape(-1, x.shape[1]).T).reshape(n, k, -1)
        if layer.bias_at is not None:
            z += rows[:, layer.bias_at]
        if r is not None:
            z += r @ weight.T
        turned.append(z)
        r = z if slope is None else z * slope[:, None]
    assert r is not None
    e = passed.top.times(r).to(r.dtype)
    for number in range(len(layers) - 1, -1, -1):
        layer, weight, delta, r = layers[number], weights[number], passed.deltas[number], moved[number]
        slope, bend = passed.slopes[number], passed.bends[number]
        if slope is not None:
            e *= slope[:, None]
        if bend is not None:
            e += turned[number].mul_(bend[:, None])
        if layer.bias_at is not None:
            into[:, layer.bias_at] += e.sum(0)
        own = (e.reshape(n, -1).T @ passed.inputs[number]).reshape(k, *layer.shape)
        if r is not None:
            own += (delta.T @ r.reshape(n, -1)).reshape(len(weight), k, -1).transpose(0, 1)
            e = e @ weight
            e += (delta @ along[number].transpose(0, 1).reshape(len(weight), -1)).reshape(n, k, -1)
        into[:, layer.weight_at] += own.reshape(k, -1)
