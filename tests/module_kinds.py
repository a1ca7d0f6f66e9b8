"""The table of modules: small models around one body each, through which per-sample gradients and products with the
Hessian run against brute force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.problems import Parts

N, TIME, WIDTH, CLASSES = 6, 5, 4, 3
VOCABULARY = 7


class Model(nn.Module):
    """A body and a linear layer behind the mean over time."""

    def __init__(self, body: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.body = body
        self.out = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        logits: Tensor = self.out(y.reshape(y.shape[0], -1, self.out.in_features).mean(1))
        return logits


def moved(model: nn.Module) -> nn.Module:
    """The model with every weight away from its start, so that no term of a derivative vanishes because one is 0."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def classified(x: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs in float64, and a class for each."""
    return x.double() if x.is_floating_point() else x, torch.arange(len(x)) % CLASSES


# -- bodies ----------------------------------------------------------------------------------------


class Twice(nn.Module):
    """One layer used two times, and its weight a third time in plain code."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.layer(torch.tanh(self.layer(x))))
        return x + F.linear(x, self.layer.weight.t())


class Tied(nn.Module):
    """Embedding, learned positions (one for each place, no sample axis), and the embedding again as a matrix."""

    def __init__(self, places: int = TIME) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH, padding_idx=2)
        self.places = nn.Embedding(places + 2, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        scores = torch.softmax(F.linear(x, self.tokens.weight), -1)
        return scores @ self.tokens.weight


class Head(Tied):
    """The same with positions as transformers has them, and scores as the output."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1])[None])
        return torch.tanh(F.linear(x, self.tokens.weight))


class Bare(nn.Module):
    """Parameters without a module: a scale, a shift, a first token, places."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(1 + torch.randn(WIDTH) / 3)
        self.shift = nn.Parameter(torch.randn(1, WIDTH))
        self.first = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.places = nn.Parameter(torch.randn(1, TIME + 1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.places
        return torch.tanh(self.scale * x + self.shift) * self.scale


class Attention(nn.Module):
    """``batch_first=False`` with time in front: the sample is the inner index of every row."""

    def __init__(self, batch_first: bool, memory: int = 0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=batch_first)
        self.memory = memory

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.attention.batch_first else x.transpose(0, 1)
        memory = y[:, : self.memory] if self.memory else y
        output: Tensor = self.attention(y, memory, memory)[0]
        return output if self.attention.batch_first else output.transpose(0, 1)


class Recurrent(nn.Module):
    """A cell whose weights every step uses."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x[:, 0])
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state


class Last(nn.Module):
    """The outputs of a layer that returns its states too."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)[0]
        return output


class Routed(nn.Module):
    """Rows with a positive first number go through one layer, the others through another: which, the data decide."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        chosen = rows[:, 0] > 0
        out = torch.zeros_like(rows)
        out[chosen], out[~chosen] = self.one(rows[chosen]), self.other(rows[~chosen])
        return torch.tanh(out.reshape(x.shape))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(WIDTH, WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x, torch.tanh(x))
        return output


class Turned(nn.Module):
    """Channels in front for a layer that wants them there."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x.transpose(1, 2)).transpose(1, 2)
        return output


def _partly_frozen() -> nn.Module:
    body = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH))
    body[0].weight.requires_grad_(False)
    body[2].bias.requires_grad_(False)
    body[3].bias.requires_grad_(False)
    return body


def _weight_norm() -> nn.Module:
    layer: nn.Module = nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))
    return layer


class Normed(nn.Module):
    """What a linear layer with weight norm computes, written out: torch's own has a wrong double backward."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, parameter in layer.named_parameters():
            self.register_parameter(name.rpartition(".")[2], parameter)

    def forward(self, x: Tensor) -> Tensor:
        length, direction = self.get_parameter("original0"), self.get_parameter("original1")
        return F.linear(x, length * direction / direction.norm(dim=1, keepdim=True), self.get_parameter("bias"))


def _encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 2, 6, dropout=0.0, activation="gelu", batch_first=True)


# -- the table -------------------------------------------------------------------------------------


def rows(n: int = N) -> Tensor:
    return torch.randn(n, TIME, WIDTH)


def tokens(n: int = N) -> Tensor:
    return torch.randint(0, VOCABULARY - 1, (n, TIME))


def _image(channels: int = 4, dims: int = 2) -> Callable[[], Tensor]:
    return lambda: torch.randn(N, channels, *(5,) * dims)


@dataclass(frozen=True)
class Kind:
    """A body, its inputs, and the engine that measures it: ``rules``, or what takes over without a rule.

    ``written``: the same function of the same parameters, for an oracle where torch's own derivatives are wrong.
    """

    name: str
    body: Callable[[], nn.Module]
    inputs: Callable[[], Tensor] = rows
    engine: str = "rules"
    width: int = WIDTH
    written: Callable[[nn.Module], nn.Module] | None = None

    def parts(self) -> tuple[nn.Module, tuple[Tensor, Tensor], str]:
        torch.manual_seed(20)
        model = moved(Model(self.body(), self.width))
        return model.double(), classified(self.inputs()), "cross-entropy"

    def oracle_parts(self) -> Parts:
        """Those that the oracle takes, whose parameters are all trainable."""
        parts = trainable(self.parts())
        if self.written is not None:
            parts[0].body = self.written(parts[0].get_submodule("body"))
        return parts

    def __str__(self) -> str:
        return self.name


def _norm(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), Turned(make()), nn.Tanh())


def _over_channels(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Conv2d(4, 4, 1), make(), nn.Tanh())


def _running() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.randn(4), 0.5 + torch.rand(4)
    return norm


KINDS = (
    Kind("linear", lambda: nn.Sequential(nn.Linear(WIDTH, 6), nn.Tanh(), nn.Linear(6, WIDTH, bias=False))),
    Kind("linear-rows", lambda: nn.Linear(WIDTH, WIDTH), lambda: torch.randn(N, WIDTH)),
    Kind("linear-4d", lambda: nn.Linear(WIDTH, WIDTH), lambda: torch.randn(N, 2, 3, WIDTH)),
    Kind("in-place", lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(inplace=True), nn.Linear(WIDTH, WIDTH))),
    Kind("time-first", lambda: Turned(nn.Sequential(nn.Linear(TIME, 3), nn.Tanh(), nn.Linear(3, TIME)))),
    Kind("twice", Twice),
    Kind("tied", Tied, tokens),
    Kind("tied-head", Head, tokens, width=VOCABULARY),
    Kind("bare", Bare),
    Kind("frozen", _partly_frozen),
    Kind("layer-norm", lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Tanh())),
    Kind("layer-norm-2d", lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm((TIME, WIDTH)), nn.Tanh())),
    Kind("rms-norm", lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.RMSNorm(WIDTH), nn.Tanh())),
    Kind("group-norm", _over_channels(lambda: nn.GroupNorm(2, 4)), _image()),
    Kind("group-norm-1d", _norm(lambda: nn.GroupNorm(2, WIDTH))),
    Kind("instance-norm", _over_channels(lambda: nn.InstanceNorm2d(4, affine=True)), _image()),
    Kind("instance-norm-1d", _norm(lambda: nn.InstanceNorm1d(WIDTH, affine=True))),
    Kind("batch-norm", _over_channels(_running), _image()),
    Kind("conv-1d", lambda: Turned(nn.Conv1d(WIDTH, WIDTH, 3, padding=1))),
    Kind("conv-2d", lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), _image(3)),
    Kind("conv-3d", lambda: nn.Conv3d(2, 4, 2), _image(2, 3)),
    Kind("conv-grouped", lambda: nn.Conv2d(4, 8, 3, groups=2), _image()),
    Kind("conv-depthwise", lambda: nn.Conv2d(4, 8, 3, padding="same", groups=4, bias=False), _image()),
    Kind("conv-dilated", lambda: nn.Conv2d(4, 4, 2, dilation=3), _image()),
    Kind("conv-circular", lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), _image()),
    Kind("conv-transposed", lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1), _image()),
    Kind("embedding", lambda: nn.Embedding(VOCABULARY, WIDTH, padding_idx=1), tokens),
    Kind("embedding-bag", lambda: nn.EmbeddingBag(VOCABULARY, WIDTH, mode="mean"), tokens, "vmap"),
    Kind("embedding-bag-max", lambda: nn.EmbeddingBag(VOCABULARY, WIDTH, mode="max"), tokens, "vmap"),
    Kind("attention", lambda: Attention(True)),
    Kind("attention-time-first", lambda: Attention(False)),
    Kind("attention-memory", lambda: Attention(True, 2), engine="vmap"),
    Kind("encoder-layer", _encoder_layer),
    Kind("recurrent", Recurrent),
    Kind("lstm", lambda: Last(nn.LSTM(WIDTH, WIDTH, batch_first=True))),
    Kind("routed", Routed, engine="loop"),
    Kind("bilinear", Pair, engine="vmap"),
    Kind("weight-norm", _weight_norm, engine="vmap", written=Normed),
)
BY_NAME = {kind.name: kind for kind in KINDS}


def trainable(parts: Parts) -> Parts:
    """The oracle reads off all of a model's parameters: those that are frozen are hidden in buffers."""
    for module in parts[0].modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
    return parts
