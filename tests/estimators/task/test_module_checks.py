"""Forwards that do more than return their output: right numbers, and model, samples and torch left as they were."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from estimators import InputError, Problem, hessian_diagonal, noise, smoothness, spectrum
from estimators.numbers.formats import TOO_COARSE

D = torch.float64
Measure = Callable[[Problem], Any]
MEASURES: tuple[Measure, ...] = (noise, hessian_diagonal, smoothness, spectrum)


def rows(n: int = 12, d: int = 4) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=D)


def labels(n: int = 12, classes: int = 3) -> Tensor:
    return torch.arange(n) % classes


def weights(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def codes(problem: Problem) -> list[str]:
    return [finding.code for finding in problem.findings]


def loss_of(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy, written out."""
    return (scores.exp().sum(1).log() - scores[torch.arange(len(scores)), targets]).mean()


def agrees(problem: Problem, written: Callable[[dict[str, Tensor]], Tensor]) -> None:
    """Loss, gradient and products of a problem are those of a written-out function of its parameters, by central
    differences of that function alone."""
    w = problem.flatten(problem.parameters)

    def value(at: Tensor) -> Tensor:
        return written(problem.unflatten(at))

    eye = torch.eye(problem.d, dtype=D)
    moved = w + 0.1 * weights(problem.d, seed=3)
    for point in (w, moved):
        here, v = problem.at(problem.unflatten(point)), weights(problem.d, seed=4)
        v /= v.norm()

        def slope(at: Tensor) -> Tensor:
            return torch.stack([_difference(value, at, e) for e in eye])

        assert here.loss() == pytest.approx(float(value(point)), rel=1e-12)
        torch.testing.assert_close(here.flatten(here.gradient()), slope(point), rtol=0, atol=1e-9)
        found = here.flatten(here.hessian_vector_product(here.unflatten(v)))
        torch.testing.assert_close(found, _difference(slope, point, v), rtol=0, atol=1e-7)


def _difference(of: Callable[[Tensor], Tensor], at: Tensor, step: Tensor, h: float = 1e-3) -> Tensor:
    """The derivative along a step by central differences of the fourth order."""
    near, far = (of(at + k * h * step) - of(at - k * h * step) for k in (1, 2))
    return (8 * near - far) / (12 * h)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# -- values that a module holds on to --------------------------------------------------------------


class Cached(nn.Module):
    """A layer whose rows have norm 1; in evaluation mode they are computed once, and held as ``how`` says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weights(3, 4)), nn.Parameter(weights(3, seed=5))
        self.how = how
        self.rows: Tensor | None = None
        self.table: dict[str, Any] = {"rows": {}}
        self.list: list[Tensor] = []

    def normed(self) -> Tensor:
        normed: Tensor = self.weight / self.weight.norm(dim=1, keepdim=True)
        return normed

    def held(self) -> Tensor:
        if self.how == "attribute":
            if self.rows is None:
                self.rows = self.normed()
            return self.rows
        if self.how == "without gradient":
            if torch.is_grad_enabled():
                return self.normed()
            if self.rows is None:
                self.rows = self.normed()
            return self.rows
        if self.how == "new attribute":
            if not hasattr(self, "fresh"):
                self.fresh = self.normed()
            return self.fresh
        if self.how == "dictionary":
            first: Tensor = self.table["rows"].setdefault("w", self.normed())
            return first
        if self.how == "list":
            self.list.append(self.normed())
            return self.list[0]
        if "late" not in self._buffers:
            self.register_buffer("late", self.normed())
        return self.late  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.normed() if self.training else self.held()).T + self.bias


HOLDS = ("attribute", "without gradient", "new attribute", "dictionary", "list", "buffer")


def normed_loss(w: dict[str, Tensor]) -> Tensor:
    return loss_of(rows() @ (w["weight"] / w["weight"].norm(dim=1, keepdim=True)).T + w["bias"], labels())


@pytest.mark.parametrize("how", HOLDS)
def test_values_that_a_module_holds_on_to_follow_the_parameters(how: str) -> None:
    agrees(Problem(Cached(how), (rows(), labels())), normed_loss)


@pytest.mark.parametrize("how", HOLDS)
def test_a_module_holds_what_it_held(how: str) -> None:
    model = Cached(how)
    before = copy.deepcopy({name: value for name, value in vars(model).items() if name != "_parameters"})
    problem = Problem(model, (rows(), labels()))
    for measure in MEASURES:
        measure(problem)
    after = {name: value for name, value in vars(model).items() if name != "_parameters"}
    assert {name: value for name, value in after.items() if not name.startswith("_")} == {
        name: value for name, value in before.items() if not name.startswith("_")
    }
    assert after["_buffers"] == before["_buffers"] == {}


def test_a_value_that_was_made_before_is_computed_anew_and_stays() -> None:
    model = Cached("attribute").eval()
    model(rows())
    held = model.rows
    with torch.no_grad():
        model.weight.mul_(1 + weights(3, 1, seed=6).abs()).add_(0.3)  # what is held is stale now
    problem = Problem(model, (rows(), labels()))
    agrees(problem, normed_loss)
    assert model.rows is held
    assert codes(problem) == []


class Half(nn.Linear):
    """A weight that is reached by itself, and by what was made of it in the first call."""

    def __init__(self, how: str) -> None:
        super().__init__(4, 3)
        self.how, self.table = how, dict[str, Tensor]()
        self.made: Any = None
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        square = self.weight @ self.weight.T
        if self.how == "dictionary":
            square = self.table.setdefault("square", square)
        elif self.how != "not held":
            self.made = self.made if self.made is not None else (square,) if self.how == "tuple" else square
            square = self.made[0] if isinstance(self.made, tuple) else self.made
        return super().forward(x) @ square


@pytest.mark.parametrize("how", ["attribute", "dictionary", "tuple"])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_value_that_was_made_before_of_a_weight_that_is_reached_too(how: str, gradients: bool) -> None:
    model, plain = Half(how), Half("not held")
    plain.load_state_dict(model.state_dict())
    with torch.set_grad_enabled(gradients):
        model(rows())
    ours, theirs = Problem(model, (rows(), labels())), Problem(plain, (rows(), labels()))
    assert ours.curvature_fault is None
    for found, wanted in zip(ours.gradient().values(), theirs.gradient().values(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)


def test_values_out_of_sight_are_said() -> None:
    class Hidden(Cached):
        def __init__(self) -> None:
            super().__init__("attribute")
            store = lru_cache(lambda: self.normed().detach())
            object.__setattr__(self, "held", store)

    found = {f.code: f.found for f in Problem(Hidden(), (rows(), labels())).findings}
    assert "weight" in found["training-only-parameters"]
    clean = Problem(Cached("attribute"), (rows(), labels()))
    assert codes(clean) == []


def test_a_part_for_training_alone_is_said() -> None:
    class Helped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.help = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.layer(x) + (self.help(x) if self.training else 0)
            return output

    assert codes(Problem(Helped(), (rows(), labels()))) == ["training-only-parameters", "unused-parameters"]


def test_a_part_that_other_samples_reach_is_not_said() -> None:
    """As an expert that noise in training sends the first samples to."""

    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.other = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            outputs = [(self.other if self.training or row[0] > 1 else self.layer)(row) for row in x]
            return torch.stack(outputs)

    inputs = rows()
    inputs[:, 0] = (torch.arange(12) > 8) * 2
    assert codes(Problem(Routed(), (inputs, labels()))) == []


class Counts(nn.Module):
    """Writes into a tensor, a buffer and a number, each of which counts in its output."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()
        self.calls, self.seen = 0, torch.zeros(1, dtype=D)
        self.register_buffer("steps", torch.zeros(1, dtype=D))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.add_(1)
        self.steps += 1
        output: Tensor = self.layer(x) * (self.calls + self.seen + self.steps)
        return output


def test_counts_of_calls_do_not_go_on() -> None:
    model = Counts()
    problem = Problem(model, (rows(), labels()))
    agrees(problem, lambda w: loss_of(3 * (rows() @ w["layer.weight"].T + w["layer.bias"]), labels()))
    for measure in MEASURES:
        measure(problem)
    assert (model.calls, float(model.seen), float(model.steps)) == (0, 0, 0)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_older_spectral_norm_leaves_its_weight() -> None:
    model = torch.nn.utils.spectral_norm(nn.Linear(4, 3)).double()
    for _ in range(20):
        model(rows())  # power iterations: the norm that it divides by is not near 0
    weight = model.weight
    problem = Problem(model, (rows(), labels()))
    noise(problem)
    assert model.weight is weight
    u, v = (dict(model.named_buffers())[name].clone() for name in ("weight_u", "weight_v"))

    def written(w: dict[str, Tensor]) -> Tensor:
        return loss_of(rows() @ (w["weight_orig"] / (u @ w["weight_orig"] @ v)).T + w["bias"], labels())

    agrees(problem, written)


def test_a_cache_of_parametrizations_outside_is_not_read() -> None:
    layer = parametrizations.orthogonal(nn.Linear(3, 3)).double()
    model = nn.Sequential(nn.Linear(4, 3).double(), layer)
    alone = Problem(model, (rows(), labels()))
    with parametrize.cached():
        model(rows())
        problem = Problem(model, (rows(), labels()))
        moved = {name: 1.1 * p for name, p in problem.parameters.items()}
        assert problem.at(moved).loss() == alone.at(moved).loss() != alone.loss()
        assert parametrize._cache_enabled == 1
        assert parametrize._cache
    assert not parametrize._cache


# -- forwards that work in place -------------------------------------------------------------------


class InPlace(nn.Module):
    """Centres its input where it lies; ``hidden``: in a way that leaves no trace in its version."""

    def __init__(self, hidden: bool = False) -> None:
        super().__init__()
        self.layer, self.hidden = nn.Linear(4, 3).double(), hidden

    def forward(self, x: Tensor) -> Tensor:
        (x.data if self.hidden else x).sub_(1).mul_(2)
        output: Tensor = self.layer(x)
        return output


@pytest.mark.parametrize("hidden", [False, True])
def test_a_forward_in_place_sees_the_samples_as_they_were(hidden: bool) -> None:
    inputs = rows()
    problem = Problem(InPlace(hidden), (inputs, labels()))
    agrees(problem, lambda w: loss_of(2 * (rows() - 1) @ w["layer.weight"].T + w["layer.bias"], labels()))
    for measure in MEASURES:
        measure(problem)
    assert torch.equal(inputs, rows())
    other = rows(7)
    problem.with_samples((other, labels(7))).loss()
    assert torch.equal(other, rows(7))


def test_named_inputs_and_targets_stay_too() -> None:
    class Named(InPlace):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
            mask.zero_()
            output: Tensor = self.layer(x) + mask.sum(1, keepdim=True)
            return output

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        targets.mul_(2)
        return (output.sum(1) - targets).square()

    x, mask, y = rows(), torch.ones(12, 3, dtype=D), rows()[:, 0].clone()
    problem = Problem(Named(), {"x": x, "mask": mask, "labels": y}, loss)

    def written(w: dict[str, Tensor]) -> Tensor:
        return ((rows() @ w["layer.weight"].T + w["layer.bias"]).sum(1) - 2 * rows()[:, 0]).square().mean()

    agrees(problem, written)
    noise(problem)
    assert torch.equal(y, rows()[:, 0])
    assert bool((mask == 1).all())


def test_samples_that_no_forward_changes_are_not_copied() -> None:
    problem = Problem(nn.Linear(4, 3).double(), (rows(), labels()))
    assert not problem.effects.inputs
    assert not problem.effects.places
    assert not problem.effects.state


def test_a_forward_that_fails_leaves_the_samples() -> None:
    inputs = rows()
    with pytest.raises(InputError, match="cannot take these samples"):
        Problem(nn.Sequential(InPlace(), nn.Linear(7, 3).double()), (inputs, labels()))
    assert torch.equal(inputs, rows())


def test_work_in_place_on_some_samples_alone_is_refused() -> None:
    class Sometimes(InPlace):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if len(x) > 4 else self.layer(2 * (x - 1))

    with pytest.raises(InputError, match="works in place on some samples"):
        Problem(Sometimes(), (rows(), labels())).loss()


def test_samples_from_inference_mode() -> None:
    with torch.inference_mode():
        inputs = rows()
    problem = Problem(nn.Linear(4, 3).double(), (inputs, labels()))
    agrees(problem, lambda w: loss_of(rows() @ w["weight"].T + w["bias"], labels()))


def test_parameters_changed_in_place_are_refused() -> None:
    tokens, targets = torch.arange(24).reshape(12, 2) % 6, labels()

    def model(norm: float) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(6, 4, max_norm=norm), nn.Flatten(), nn.Linear(8, 3)).double()

    with pytest.raises(InputError, match=r"a parameter in place, which torch does not differentiate: 0\.weight"):
        Problem(model(0.5), (tokens, targets))
    problem = Problem(model(50), (tokens, targets))
    agrees(problem, lambda w: loss_of(w["0.weight"][tokens].flatten(1) @ w["2.weight"].T + w["2.bias"], targets))
    noise(problem)
    far = {name: 50 * p for name, p in problem.parameters.items()}
    with pytest.raises(InputError, match="changes a parameter in place"):
        problem.at(far).gradient()


def test_frozen_parameters_changed_in_place_are_renewed() -> None:
    tokens, targets = torch.arange(24).reshape(12, 2) % 6, labels()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 4, max_norm=0.5), nn.Flatten(), nn.Linear(8, 3)).double()
    model[0].requires_grad_(False)
    table: Tensor = model[0].weight.detach().clone()  # type: ignore[operator]
    problem = Problem(model, (tokens, targets))
    short = table * (0.5 / (table.norm(dim=1, keepdim=True) + 1e-7)).clamp(max=1)
    agrees(problem, lambda w: loss_of(short[tokens].flatten(1) @ w["2.weight"].T + w["2.bias"], targets))
    assert torch.equal(model[0].weight, table)  # type: ignore[arg-type]


# -- padding rows ----------------------------------------------------------------------------------


class Reads(nn.Module):
    """The mean of the tokens' rows, of all or of those that are no padding (0)."""

    def __init__(self, masked: bool, function: bool = False, sparse: bool = False, trained: bool = True) -> None:
        super().__init__()
        self.masked, self.function = masked, function
        self.table = nn.Embedding(6, 4, padding_idx=0, sparse=sparse).double().requires_grad_(trained)
        with torch.no_grad():
            self.table.weight.copy_(weights(6, 4, seed=7))
        self.out = nn.Linear(4, 3).double()

    def forward(self, tokens: Tensor) -> Tensor:
        looked = F.embedding(tokens, self.table.weight, 0) if self.function else self.table(tokens)
        used = (tokens != 0).unsqueeze(-1) if self.masked else torch.ones_like(tokens, dtype=torch.bool).unsqueeze(-1)
        output: Tensor = self.out((looked * used).sum(1) / used.sum(1))
        return output


TOKENS = torch.tensor([[1 + (i + j) % 5 for j in range(4)] for i in range(12)])
PADDED = TOKENS.clone()
PADDED[6:, 3] = 0  # none among the first rows


@pytest.mark.parametrize(
    ("options", "tokens", "moves"),
    [
        ({"masked": False}, PADDED, True),
        ({"masked": False, "function": True}, PADDED, True),
        ({"masked": False, "sparse": True}, PADDED, True),
        ({"masked": True}, PADDED, False),
        ({"masked": False}, TOKENS, False),
        ({"masked": False, "trained": False}, PADDED, False),
    ],
)
def test_a_padding_row_is_said_where_it_moves_the_loss(options: Any, tokens: Tensor, moves: bool) -> None:
    problem = Problem(Reads(**options), (tokens, labels()))
    assert ("padding-row-fixed" in codes(problem)) == moves
    if moves:
        finding = next(f for f in problem.findings if f.code == "padding-row-fixed")
        assert "table.weight" in finding.found
        assert finding.severity == "note"


@pytest.mark.parametrize("sparse", [False, True])
def test_numbers_are_those_with_the_padding_row_held_fixed(sparse: bool) -> None:
    problem = Problem(Reads(masked=False, sparse=sparse), (PADDED, labels()))
    first = weights(6, 4, seed=7)[:1]
    start = dict(problem.parameters)

    def written(w: dict[str, Tensor]) -> Tensor:
        table = torch.cat([first, w["table.weight"][1:]])
        return loss_of(table[PADDED].mean(1) @ w["out.weight"].T + w["out.bias"], labels())

    # At other points the row stays too: only what moves the rest is compared.
    w, v = problem.flatten(problem.parameters), weights(problem.d, seed=8)
    v[:4] = 0
    h = 1e-4
    value = [float(written(problem.unflatten(w + s * h * v))) for s in (-1, 0, 1)]
    assert float(problem.flatten(problem.gradient()) @ v) == pytest.approx((value[2] - value[0]) / (2 * h), abs=1e-7)
    image = problem.flatten(problem.hessian_vector_product(problem.unflatten(v)))
    assert float(image @ v) == pytest.approx((value[2] - 2 * value[1] + value[0]) / h**2, abs=1e-5)
    assert float(image[:4].abs().max()) == 0
    assert float(noise(problem).vectors["table.weight"][0].abs().max()) == 0
    assert all(torch.equal(problem.parameters[name], p) for name, p in start.items())


# -- checkpoints -----------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool, inputs: bool) -> None:
        super().__init__()
        self.reentrant, self.inputs = reentrant, inputs
        self.inner, self.out = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(lambda v: self.inner(v).tanh(), x, use_reentrant=self.reentrant)
        output: Tensor = self.out(hidden)
        return output


@pytest.mark.filterwarnings("ignore:.*None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_let_all_gradients_through(reentrant: bool) -> None:
    model = Checkpointed(reentrant, True)
    problem = Problem(model, (rows(), labels()))

    def written(w: dict[str, Tensor]) -> Tensor:
        hidden = (rows() @ w["inner.weight"].T + w["inner.bias"]).tanh()
        return loss_of(hidden @ w["out.weight"].T + w["out.bias"], labels())

    agrees(problem, written)
    assert float(noise(problem).vectors["inner.weight"].min()) > 0
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_of_transformers(reentrant: bool) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    plain = GPT2LMHeadModel(config).double()
    model = copy.deepcopy(plain).train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    tokens = torch.randint(0, 20, (6, 8), generator=torch.Generator().manual_seed(0))
    found, wanted = (Problem(m, {"input_ids": tokens, "labels": tokens}) for m in (model, plain))
    assert torch.equal(found.flatten(found.gradient()), wanted.flatten(wanted.gradient()))
    v = {name: torch.ones_like(p) for name, p in wanted.parameters.items()}
    assert torch.equal(found.flatten(found.hessian_vector_product(v)), wanted.flatten(wanted.hessian_vector_product(v)))
    assert model.is_gradient_checkpointing


# -- number formats --------------------------------------------------------------------------------


class Autocast(nn.Module):
    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            output: Tensor = self.layers(x).float()
        return output


def test_autocast_inside_of_forward_is_low_precision() -> None:
    problem = Problem(Autocast(torch.bfloat16), (rows().float(), labels()))
    assert problem.precision == torch.bfloat16
    (finding,) = problem.findings
    assert (finding.code, finding.found) == ("low-precision", "forward computes in bfloat16")
    found = smoothness(problem)
    assert found.confidence is None
    assert found.why["confidence"] == TOO_COARSE
    clean = Problem(Autocast(None), (rows().float(), labels()))
    assert (clean.precision, codes(clean)) == (torch.float32, [])
    assert smoothness(clean).confidence is not None


def test_autocast_around_a_call_changes_nothing() -> None:
    problem = Problem(Autocast(None), (rows().float(), labels()))
    gradient = problem.flatten(problem.gradient())
    with torch.autocast("cpu", torch.bfloat16):
        layers = problem.model.layers
        assert isinstance(layers, nn.Module)
        again = Problem(layers, (rows().float(), labels()))
        assert codes(again) == []
        assert torch.equal(again.flatten(again.gradient()), gradient)
        assert torch.is_autocast_enabled("cpu")


def test_short_products_are_off_while_measuring() -> None:
    problem = Problem(nn.Linear(4, 3), (rows().float(), labels()))
    backend: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = backend.fp32_precision
    try:
        backend.fp32_precision = "tf32"
        with problem.measuring():
            assert backend.fp32_precision == "ieee"
        assert backend.fp32_precision == "tf32"
    finally:
        backend.fp32_precision = before


def test_parts_in_a_coarser_format_than_the_weights_are_noticed() -> None:
    class Short(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).float().tanh().double()

    assert Problem(Short(4, 3).double(), (rows(), labels())).precision == torch.float32
    assert Problem(nn.Linear(4, 3).double(), (rows(), labels())).precision == D


class Mixed(nn.Module):
    def __init__(self, first: torch.dtype, second: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.formats = first, second
        self.first, self.second = nn.Linear(4, 3).to(first), nn.Linear(3, 3).to(second)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.second(self.first(x.to(self.formats[0])).tanh().to(self.formats[1]))
        return output


FORMATS = (torch.float32, D, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("first", FORMATS, ids=str)
@pytest.mark.parametrize("second", FORMATS, ids=str)
def test_the_point_itself_is_the_same_point(first: torch.dtype, second: torch.dtype) -> None:
    problem = Problem(Mixed(first, second), (rows(), labels()))
    for point in (problem.parameters, problem.unflatten(problem.flatten(problem.parameters))):
        same = problem.at(point)
        for name, tensor in problem.parameters.items():
            assert same.parameters[name].dtype == tensor.dtype
            assert torch.equal(same.parameters[name], tensor)
            assert same.parameters[name].data_ptr() != tensor.data_ptr()
        assert same.loss() == problem.loss()
    gradient = problem.gradient()
    assert {name: g.dtype for name, g in gradient.items()} == {n: p.dtype for n, p in problem.parameters.items()}
    for measure in MEASURES:
        measure(problem)


def test_gradients_of_mixed_formats() -> None:
    """float32 and float64: as all in float64, but for the rounding of float32."""
    mixed, plain = Mixed(torch.float32, D), Mixed(D, D)
    plain.load_state_dict(mixed.state_dict())
    found, wanted = (Problem(model, (rows(), labels())) for model in (mixed, plain))
    torch.testing.assert_close(
        found.flatten(found.gradient()), wanted.flatten(wanted.gradient()).to(D), rtol=0, atol=1e-5, check_dtype=False
    )
    v = {name: torch.ones_like(p) for name, p in wanted.parameters.items()}
    products = [p.flatten(p.hessian_vector_product(v)) for p in (found, wanted)]
    torch.testing.assert_close(products[0].double(), products[1], rtol=0, atol=1e-5)


# -- modules around and inside modules -------------------------------------------------------------


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()


def inner_compiled() -> nn.Module:
    model = small()
    model[2] = torch.compile(model[2], backend="aot_eager")  # type: ignore[operator, index]
    return model


def compiled_in_place() -> nn.Module:
    model = small()
    model.compile(backend="aot_eager")
    return model


@pytest.fixture
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(
    ("make", "prefix"),
    [
        (lambda: torch.compile(small(), backend="aot_eager"), "_orig_mod."),
        (lambda: nn.DataParallel(small()), "module."),
        (lambda: torch.compile(nn.DataParallel(small()), backend="aot_eager"), "_orig_mod.module."),
        (compiled_in_place, ""),
        (inner_compiled, None),
    ],
    ids=["compiled", "parallel", "both", "in place", "inside"],
)
@pytest.mark.usefixtures("quiet")
def test_wrapped_modules_are_measured_as_the_module_inside(make: Callable[[], nn.Module], prefix: str | None) -> None:
    model, plain = make(), Problem(small(), (rows(), labels()))
    problem = Problem(model, (rows(), labels()))
    if prefix is not None:
        assert problem.names == plain.names
        moved = {prefix + name: 2 * p for name, p in problem.parameters.items()}
        assert problem.at(moved).loss() == problem.at({n: 2 * p for n, p in problem.parameters.items()}).loss()
        assert set(moved) == {name for name, _ in model.named_parameters()}
    assert torch.equal(problem.flatten(problem.gradient()), plain.flatten(plain.gradient()))
    for measure in MEASURES:
        found, wanted = measure(problem), measure(plain)
        for one, other in zip(found.vectors.values(), wanted.vectors.values(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("inside", [False, True])
def test_torchscript_is_refused(inside: bool) -> None:
    scripted = torch.jit.script(small())
    with pytest.raises(InputError, match="a TorchScript program, whose parameters cannot be varied"):
        Problem(nn.Sequential(scripted, nn.Linear(3, 3).double()) if inside else scripted, (rows(), labels()))


def test_sparse_gradients_are_those_of_dense_ones() -> None:
    def model(sparse: bool, bag: bool) -> nn.Module:
        torch.manual_seed(0)
        table = nn.EmbeddingBag(6, 4, sparse=sparse) if bag else nn.Embedding(6, 4, sparse=sparse)
        return nn.Sequential(table, nn.Flatten(), nn.Linear(4 if bag else 16, 3)).double()

    for bag in (False, True):
        found, wanted = (Problem(model(sparse, bag), (TOKENS, labels())) for sparse in (True, False))
        for measure in MEASURES:
            one, other = (measure(problem).vectors for problem in (found, wanted))
            assert all(torch.equal(one[name], other[name]) for name in other)

        def written(w: dict[str, Tensor], bag: bool = bag) -> Tensor:
            looked = w["0.weight"][TOKENS]
            return loss_of((looked.mean(1) if bag else looked.flatten(1)) @ w["2.weight"].T + w["2.bias"], labels())

        agrees(found, written)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("limit", [None, 1 << 24])
def test_sparse_buffers(layout: torch.layout, limit: int | None) -> None:
    mixing = torch.eye(4, dtype=D) + torch.diag(weights(3, seed=9), 1)

    class Mixes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3).double()
            self.register_buffer("mixing", mixing.to_sparse(layout=layout))

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.layer(torch.sparse.mm(self.mixing, x.T).T)
            return output

    problem = Problem(Mixes(), (rows(), labels()), memory_bytes=limit)
    agrees(problem, lambda w: loss_of(rows() @ mixing.T @ w["layer.weight"].T + w["layer.bias"], labels()))
    for measure in MEASURES:
        measure(problem)


# -- parameters and targets ------------------------------------------------------------------------


def test_parameters_without_numbers_are_no_coordinates() -> None:
    class Empty(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3, dtype=D)
            self.none, self.flat = nn.Parameter(torch.zeros(0)), nn.Parameter(torch.zeros(0, 3, dtype=D))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.flat.sum()

    problem = Problem(Empty(), (rows(), labels()))
    assert problem.names == ("weight", "bias")
    assert codes(problem) == []
    agrees(problem, lambda w: loss_of(rows() @ w["weight"].T + w["bias"], labels()))
    for measure in MEASURES:
        measure(problem)
    with pytest.raises(InputError, match="no parameter"):
        Problem(nn.ParameterList([torch.zeros(0)]), (rows(), labels()))


INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.uint16, torch.uint32)


@pytest.mark.parametrize("dtype", [*INTEGERS, torch.bool], ids=str)
def test_whole_numbers_as_targets(dtype: torch.dtype) -> None:
    two = labels(12, 2)

    def both(loss: str, targets: Tensor, outputs: int) -> tuple[Problem, Problem]:
        torch.manual_seed(0)
        model = nn.Linear(4, outputs).double()
        plain = targets if loss == "cross-entropy" else targets.to(D)
        return Problem(model, (rows(), targets.to(dtype)), loss), Problem(model, (rows(), plain), loss)

    pairs = [both("cross-entropy", two, 2), both("squared", two[:, None], 1), both("logistic", torch.ones(12), 1)]
    for found, wanted in pairs:
        assert found.loss() == wanted.loss()
        assert torch.equal(found.flatten(found.gradient()), wanted.flatten(wanted.gradient()))
        other = found.with_samples((rows(5), found.samples[1][:5].to(dtype)))  # type: ignore[index]
        assert other.loss() > 0


def test_a_loss_of_ones_own_gets_the_targets_that_were_given() -> None:
    def loss(output: Tensor, targets: Tensor) -> Tensor:
        assert targets.dtype == torch.bool
        return torch.where(targets, output[:, 0], -output[:, 0]).square()

    Problem(nn.Linear(4, 1).double(), (rows(), labels() > 0), loss).loss()


def test_batch_norm_by_the_batch_inside_of_forward_is_refused() -> None:
    class Normed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(super().forward(x), None, None, training=True)

    with pytest.raises(InputError, match="depends on the other samples of its batch: Normed with one alone: Expected"):
        Problem(Normed(4, 3), (rows().float(), labels()))


# -- derivatives that torch does not have ----------------------------------------------------------


class Kernel(nn.Module):
    """torch's own kernel of the hard sigmoid."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten.hardsigmoid(x)
        return result


class Clamped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x / 6 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("layer", [nn.Hardsigmoid(), nn.Hardsigmoid(inplace=True)])
def test_hard_sigmoids_have_the_curvature_of_their_formula(layer: nn.Module) -> None:
    first, last = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
    ours, theirs = (
        Problem(nn.Sequential(first, each, last), (rows(), labels())).hessian_vector_product(
            {**{f"0.{k}": v for k, v in first.named_parameters()}, **{f"2.{k}": v for k, v in last.named_parameters()}}
        )
        for each in (layer, Clamped())
    )
    for name, part in theirs.items():
        torch.testing.assert_close(ours[name], part, rtol=0, atol=1e-14)


def test_a_missing_second_derivative_is_refused_for_curvature_alone() -> None:
    problem = Problem(nn.Sequential(nn.Linear(4, 5), Kernel(), nn.Linear(5, 3)).double(), (rows(), labels()))
    assert float(noise(problem).vectors["0.weight"].min()) > 0
    for measure in (hessian_diagonal, smoothness, spectrum):
        with pytest.raises(InputError, match=r"no second derivative, so curvature cannot be measured: .*hardsigmoid"):
            measure(problem)


def test_a_loss_without_second_derivative_is_refused_for_curvature_alone() -> None:
    def loss(output: Tensor, targets: Tensor) -> Tensor:
        return torch.ops.aten.hardsigmoid(output).sum(1)  # type: ignore[no-any-return]

    problem = Problem(nn.Linear(4, 3).double(), (rows(), labels()), loss)
    noise(problem)
    with pytest.raises(InputError, match="no second derivative"):
        hessian_diagonal(problem)
