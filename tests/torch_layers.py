"""Every layer of torch.nn in a small network, by the name of its class, and what is left out with the reason.

In front of each layer stands a linear one, so that its derivative by its input enters too; behind it one over all of
its outputs, so that no output is averaged away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.module_kinds import (
    VOCABULARY,
    WIDTH,
    Attention,
    Last,
    Model,
    N,
    Pair,
    classified,
    moved,
)
from tests.problems import Parts

CHANNELS, LENGTH = 4, 5
Make = Callable[[], nn.Module]


# -- inputs: (n, channels, ...) --------------------------------------------------------------------


def vectors() -> Tensor:
    return torch.randn(N, 6)


def series() -> Tensor:
    return torch.randn(N, CHANNELS, LENGTH)


def images() -> Tensor:
    return torch.randn(N, CHANNELS, 4, 5)


def volumes() -> Tensor:
    return torch.randn(N, 2, 3, 4, 4)


def words() -> Tensor:
    return torch.randint(0, VOCABULARY, (N, LENGTH))


# -- layers that take or return more than one tensor -----------------------------------------------


class Two(nn.Module):
    """A layer of two arguments: x, and another function of x."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x, torch.sin(2 * x))
        return output


class Unpooled(nn.Module):
    """Maxima back at their places, the rest 0."""

    def __init__(self, pool: nn.Module, unpool: nn.Module) -> None:
        super().__init__()
        self.pool, self.unpool = pool, unpool

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.unpool(*self.pool(x), output_size=x.shape)
        return output


class Unrolled(nn.Module):
    """A cell over the last axis, whose state is a tensor or a pair of tensors."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for step in x.unbind(2):
            state = self.cell(step, state)
        return torch.cat(state, 1) if isinstance(state, tuple) else state


class FixedRegions(nn.Module):
    """A pool whose random regions are those of its making, for every sample and at every call."""

    regions: Tensor

    def __init__(self, pool: Callable[..., nn.Module], regions: Tensor) -> None:
        super().__init__()
        self.pool = pool
        self.register_buffer("regions", regions)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.pool(_random_samples=self.regions.expand(len(x), -1, -1))(x)
        return output


class LogProbabilities(nn.Module):
    """The logarithms that the adaptive softmax gives for all classes; it has parameters and a loss of its own."""

    def __init__(self, layer: nn.AdaptiveLogSoftmaxWithLoss) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer.log_prob(x)


class Named(nn.Module):
    """Layers by name and parameters in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"one": nn.Linear(6, 5), "two": nn.Linear(6, 5)})
        self.steps = nn.ModuleList([nn.Tanh(), nn.Sequential(nn.Linear(5, 4), nn.SiLU())])
        self.scales = nn.ParameterList([torch.ones(4), torch.zeros(4)])
        self.named = nn.ParameterDict({"shift": torch.zeros(4)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers["one"](x) * self.layers["two"](x)
        for step in self.steps:
            x = step(x)
        output: Tensor = x * self.scales[0] + x**2 * self.scales[1] + self.named["shift"]
        return output


# -- the table -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A layer by its class in torch.nn (``covers``) and the kind of it that is tried (``kind``).

    ``bare``: without a linear layer in front. ``curvature``: what the refusal says where torch has no second
    derivative. ``refused``: what the refusal of the whole problem says. ``known``: faults that are not mended, by the
    test that shows them.
    """

    covers: str
    make: Make
    inputs: Callable[[], Tensor] = vectors
    kind: str = ""
    bare: bool = False
    curvature: str = ""
    refused: str = ""
    known: Mapping[str, str] = field(default_factory=dict)

    def parts(self) -> Parts:
        torch.manual_seed(30)
        x = self.inputs()
        body = self.make() if self.bare else nn.Sequential(nn.Linear(x.shape[-1], x.shape[-1]), self.make())
        with torch.no_grad():
            width = body.eval()(x)[0].numel()
        return moved(Model(body, width)).double(), classified(x), "cross-entropy"

    def __str__(self) -> str:
        return f"{self.covers}-{self.kind}" if self.kind else self.covers


def _activations() -> Iterator[Layer]:
    """Functions of each number, and those over an axis."""
    plain = (
        "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish ReLU ReLU6 RReLU SELU SiLU "
        "Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink Identity"
    )
    for name in plain.split():
        yield Layer(name, getattr(nn, name))
    yield Layer("GELU", lambda: nn.GELU("tanh"), kind="tanh")
    yield Layer("Softplus", lambda: nn.Softplus(3, 1), kind="with-threshold")
    yield Layer("ELU", lambda: nn.ELU(0.5, inplace=True), kind="in-place")
    yield Layer("CELU", lambda: nn.CELU(0.5), kind="sharp")
    yield Layer("Threshold", lambda: nn.Threshold(0.1, -0.3))
    yield Layer("GLU", nn.GLU)
    for name in ("Softmax", "Softmin", "LogSoftmax"):
        yield Layer(name, partial(getattr(nn, name), 1))
    yield Layer("Softmax2d", nn.Softmax2d, images)
    yield Layer("PReLU", lambda: nn.PReLU(CHANNELS), series, kind="by-channel")
    yield Layer("PReLU", nn.PReLU)
    for name in ("Dropout", "AlphaDropout", "FeatureAlphaDropout"):
        yield Layer(name, getattr(nn, name))
    for dims, inputs in ((1, series), (2, images), (3, volumes)):
        yield Layer(f"Dropout{dims}d", getattr(nn, f"Dropout{dims}d"), inputs)


def _convolutions() -> Iterator[Layer]:
    for dims, inputs, channels in ((1, series, CHANNELS), (2, images, CHANNELS), (3, volumes, 2)):
        conv, turned = getattr(nn, f"Conv{dims}d"), getattr(nn, f"ConvTranspose{dims}d")
        yield Layer(f"Conv{dims}d", partial(conv, channels, 4, 2, padding=1, stride=2), inputs)
        yield Layer(f"Conv{dims}d", partial(conv, channels, 4, 2, groups=2, bias=False), inputs, kind="grouped")
        yield Layer(f"ConvTranspose{dims}d", partial(turned, channels, 2, 2, stride=2, dilation=2), inputs)
    for mode in ("reflect", "replicate", "circular"):
        yield Layer("Conv2d", partial(nn.Conv2d, CHANNELS, 3, 3, padding=1, padding_mode=mode), images, kind=mode)
    yield Layer(
        "Fold", lambda: nn.Sequential(nn.Unfold(2, padding=1), nn.Tanh(), nn.Fold((4, 5), 2, padding=1)), images
    )
    yield Layer("Unfold", lambda: nn.Unfold(2, stride=2), images)


def _pools() -> Iterator[Layer]:
    for dims, inputs in ((1, series), (2, images), (3, volumes)):
        pool = getattr(nn, f"MaxPool{dims}d")
        yield Layer(f"MaxPool{dims}d", partial(pool, 2, stride=1), inputs)
        yield Layer(f"AvgPool{dims}d", partial(getattr(nn, f"AvgPool{dims}d"), 2), inputs)
        for kind in ("Avg", "Max"):
            name = f"Adaptive{kind}Pool{dims}d"
            yield Layer(name, partial(getattr(nn, name), 2), inputs)
        yield Layer(f"LPPool{dims}d", partial(getattr(nn, f"LPPool{dims}d"), 2, 2), inputs)
        unpool = getattr(nn, f"MaxUnpool{dims}d")
        yield Layer(f"MaxUnpool{dims}d", partial(_unpooled, pool, unpool), inputs)
    yield Layer("LPPool1d", lambda: nn.Sequential(nn.Softplus(), nn.LPPool1d(3, 2)), series, kind="cubes")
    for dims in (2, 3):
        pool, size = getattr(nn, f"FractionalMaxPool{dims}d"), (3,) * dims
        inputs = partial(_far_apart, dims)
        yield Layer(f"FractionalMaxPool{dims}d", partial(pool, 2, output_size=size), inputs, refused="two evaluations")
        fixed = partial(_fixed_pool, pool, size)
        yield Layer(f"FractionalMaxPool{dims}d", fixed, inputs, kind="fixed")


def _unpooled(pool: Any, unpool: Any) -> nn.Module:
    return Unpooled(pool(2, return_indices=True), unpool(2))


def _far_apart(dims: int) -> Tensor:
    """Numbers between which no step of a difference changes the largest of a region."""
    return 4 * torch.randn(N, 1, *(7,) * dims)


def _fixed_pool(pool: Any, size: tuple[int, ...]) -> nn.Module:
    return FixedRegions(partial(pool, 2, output_size=size), torch.rand(1, 1, len(size)))


def _paddings() -> Iterator[Layer]:
    for dims, inputs in ((1, series), (2, images), (3, volumes)):
        for kind in ("Circular", "Constant", "Reflection", "Replication", "Zero"):
            name = f"{kind}Pad{dims}d"
            arguments = (1, 0.5) if kind == "Constant" else (1,)
            yield Layer(name, partial(getattr(nn, name), *arguments), inputs)


def _norms() -> Iterator[Layer]:
    for dims, inputs, channels in ((1, series, CHANNELS), (2, images, CHANNELS), (3, volumes, 2)):
        batch, instance = getattr(nn, f"BatchNorm{dims}d"), getattr(nn, f"InstanceNorm{dims}d")
        yield Layer(f"BatchNorm{dims}d", partial(_with_statistics, batch, channels), inputs)
        coupled = partial(batch, channels, track_running_stats=False)
        yield Layer(f"BatchNorm{dims}d", coupled, inputs, kind="of-the-batch", refused="couples the samples")
        yield Layer(f"InstanceNorm{dims}d", partial(instance, channels, affine=True), inputs)
        tracked = partial(_with_statistics, partial(instance, track_running_stats=True, affine=True), channels)
        yield Layer(f"InstanceNorm{dims}d", tracked, inputs, kind="tracked")
    yield Layer("SyncBatchNorm", partial(_with_statistics, nn.SyncBatchNorm, CHANNELS), images)
    yield Layer("GroupNorm", lambda: nn.GroupNorm(2, CHANNELS), images)
    yield Layer("LayerNorm", lambda: nn.LayerNorm((CHANNELS, LENGTH)), series)
    yield Layer("RMSNorm", lambda: nn.RMSNorm(6))
    yield Layer("LocalResponseNorm", lambda: nn.LocalResponseNorm(2, 0.5), images)
    astray = "the gradient is not that of the loss"  # torch's own backward is off by up to its size
    yield Layer("CrossMapLRN2d", lambda: nn.CrossMapLRN2d(2, 0.5), images, refused=astray)


def _with_statistics(norm: Any, channels: int) -> nn.Module:
    layer: nn.Module = norm(channels)
    layer.running_mean, layer.running_var = torch.randn(channels), 0.5 + torch.rand(channels)
    return layer


def _shapes() -> Iterator[Layer]:
    yield Layer("Flatten", lambda: nn.Sequential(nn.Flatten(), nn.Tanh()), images)
    yield Layer("Unflatten", lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Softmax(2)))
    yield Layer("ChannelShuffle", lambda: nn.Sequential(nn.ChannelShuffle(2), nn.GLU(1)), images)
    yield Layer("PixelShuffle", lambda: nn.Sequential(nn.PixelShuffle(2), nn.GLU(2)), images)
    yield Layer("PixelUnshuffle", lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.GLU(1)), lambda: images()[..., :4])
    modes = (("linear", series), ("bilinear", images), ("bicubic", images), ("trilinear", volumes), ("area", images))
    yield Layer("Upsample", lambda: nn.Upsample(scale_factor=2), images)
    for mode, inputs in modes:
        yield Layer("Upsample", partial(nn.Upsample, scale_factor=1.5, mode=mode), inputs, kind=mode)
    yield Layer("UpsamplingBilinear2d", lambda: nn.UpsamplingBilinear2d(scale_factor=2), images)
    yield Layer("UpsamplingNearest2d", lambda: nn.UpsamplingNearest2d(scale_factor=2), images)


def _linear() -> Iterator[Layer]:
    yield Layer("Linear", lambda: nn.Sequential(nn.Tanh(), nn.Linear(6, 3)))
    yield Layer("Bilinear", Pair, lambda: torch.randn(N, WIDTH))
    yield Layer("CosineSimilarity", lambda: Two(nn.CosineSimilarity(dim=2)), series)
    yield Layer("PairwiseDistance", lambda: Two(nn.PairwiseDistance()), series)
    yield Layer("Embedding", lambda: nn.Embedding(VOCABULARY, 3), words, bare=True)
    yield Layer("Embedding", lambda: nn.Embedding(VOCABULARY, 3, padding_idx=1), words, kind="padded", bare=True)
    yield Layer(
        "Embedding",
        lambda: nn.Embedding(VOCABULARY, 3, scale_grad_by_freq=True),
        words,
        kind="by-frequency",
        bare=True,
        refused="couples the samples",
    )
    for mode in ("sum", "mean", "max"):
        yield Layer("EmbeddingBag", partial(nn.EmbeddingBag, VOCABULARY, 5, mode=mode), words, kind=mode, bare=True)
    adaptive = partial(nn.AdaptiveLogSoftmaxWithLoss, 6, 7, [2, 4])
    yield Layer("AdaptiveLogSoftmaxWithLoss", lambda: LogProbabilities(adaptive(div_value=2)))
    wide = partial(adaptive, div_value=4)
    yield Layer("AdaptiveLogSoftmaxWithLoss", lambda: LogProbabilities(wide()), kind="empty-tensor")
    for name in ("Sequential", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList"):
        yield Layer(name, Named)


def _recurrent() -> Iterator[Layer]:
    sizes = (LENGTH, 3)
    for name in ("RNN", "GRU", "LSTM"):
        layer, cell = getattr(nn, name), getattr(nn, f"{name}Cell")
        yield Layer(name, partial(_last, layer, *sizes, batch_first=True), series)
        deep = partial(_last, layer, *sizes, num_layers=2, bidirectional=True, batch_first=True)
        yield Layer(name, deep, series, kind="deep")
        yield Layer(f"{name}Cell", partial(_unrolled, cell, CHANNELS, 3), series)
    yield Layer("RNN", partial(_last, nn.RNN, *sizes, nonlinearity="relu", batch_first=True), series, kind="relu")
    yield Layer("LSTM", partial(_last, nn.LSTM, *sizes, proj_size=2, batch_first=True), series, kind="projected")


def _last(layer: Any, *arguments: Any, **settings: Any) -> nn.Module:
    return Last(layer(*arguments, **settings))


def _unrolled(cell: Any, *sizes: int) -> nn.Module:
    return Unrolled(cell(*sizes))


def _attention() -> Iterator[Layer]:
    def rows() -> Tensor:
        return torch.randn(N, 3, WIDTH)

    block: dict[str, Any] = {"d_model": WIDTH, "nhead": 2, "dim_feedforward": 3, "batch_first": True}
    yield Layer("MultiheadAttention", lambda: Attention(True), rows)
    yield Layer("MultiheadAttention", lambda: Attention(False), rows, kind="time-first")
    for name in ("TransformerEncoderLayer", "TransformerDecoderLayer"):
        two = (lambda layer: layer) if "Encoder" in name else Two
        smooth = partial(_block, two, getattr(nn, name), **block, activation="gelu")
        bent = partial(_block, two, getattr(nn, name), **block, norm_first=True)
        yield Layer(name, smooth, rows)
        yield Layer(name, bent, rows, kind="relu-norm-first")
    yield Layer("TransformerEncoder", lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(**block), 2), rows)
    yield Layer("TransformerDecoder", lambda: Two(nn.TransformerDecoder(nn.TransformerDecoderLayer(**block), 2)), rows)
    whole: dict[str, Any] = {"num_encoder_layers": 1, "num_decoder_layers": 1}
    yield Layer("Transformer", lambda: Two(nn.Transformer(**block, **whole)), rows)


def _block(two: Callable[[nn.Module], nn.Module], layer: Any, **settings: Any) -> nn.Module:
    return two(layer(**settings))


def _parametrized() -> Iterator[Layer]:
    """Weights that are functions of other weights, by torch's own tools."""
    new, old = nn.utils.parametrizations, nn.utils
    every: Any = None
    yield Layer("Linear", lambda: new.weight_norm(nn.Linear(6, 4)), kind="weight-norm")
    yield Layer("Linear", lambda: new.weight_norm(nn.Linear(6, 4), dim=1), kind="weight-norm-last")
    yield Layer("Linear", lambda: new.weight_norm(nn.Linear(6, 4), dim=every), kind="weight-norm-whole")
    yield Layer("Linear", lambda: old.weight_norm(nn.Linear(6, 4)), kind="old-weight-norm")
    yield Layer("Conv2d", lambda: new.weight_norm(nn.Conv2d(4, 2, 2)), images, kind="weight-norm")
    yield Layer("Linear", lambda: new.spectral_norm(nn.Linear(6, 4)), kind="spectral-norm")
    yield Layer("Linear", lambda: old.spectral_norm(nn.Linear(6, 4)), kind="old-spectral-norm")
    for kind in ("matrix_exp", "cayley", "householder"):
        make = partial(_orthogonal, kind)
        yield Layer("Linear", make, kind=f"orthogonal-{kind}")


def _orthogonal(kind: str) -> nn.Module:
    layer: nn.Module = nn.utils.parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map=kind)
    return layer


LAYERS = (
    *_activations(),
    *_convolutions(),
    *_pools(),
    *_paddings(),
    *_norms(),
    *_shapes(),
    *_linear(),
    *_recurrent(),
    *_attention(),
    *_parametrized(),
)
LAZY = ("BatchNorm", "Conv", "ConvTranspose", "InstanceNorm")
ABSENT = {
    "Module": "the base of all",
    "Container": "the base of containers, without a forward",
    "RNNBase": "the base of RNN, GRU and LSTM",
    "RNNCellBase": "the base of their cells",
    "DataParallel": "a wrapper for several accelerators",
    **dict.fromkeys(
        ("LazyLinear", *(f"Lazy{name}{dims}d" for name in LAZY for dims in (1, 2, 3))),
        "without numbers before its first call, then the layer that it becomes",
    ),
}
"""Classes of torch.nn that are no case, and why. Losses have a table of their own."""
