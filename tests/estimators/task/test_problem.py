"""Problem: loss, gradient and Hessian-vector products against brute force; what is refused, found and left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import estimators.task.checks as examine
from estimators import InputError, Problem
from estimators.task.derivative_checks import curvature_fault
from estimators.task.products import dense_hessian, hessian
from tests import checks, oracles
from tests.problems import BY_NAME, CASES, SMALL, Case, gpt2, mlp


def _vector(problem: Problem, seed: int = 0) -> Tensor:
    return torch.randn(problem.d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _rows(d: int) -> list[int]:
    """All coordinates of a small problem, spread ones of a large one."""
    return sorted({round(j) for j in np.linspace(0, d - 1, min(d, 60))})


# -- against the oracles ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss(case: Case) -> None:
    assert case.problem().loss() == pytest.approx(oracles.loss(case.parts()), rel=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient(case: Case) -> None:
    problem = case.problem()
    value, gradient = problem.loss_and_gradient()
    np.testing.assert_allclose(problem.flatten(gradient).numpy(), oracles.gradient(case.parts()), atol=1e-12)
    assert value == pytest.approx(problem.loss(), rel=1e-14)
    assert {name: g.shape for name, g in gradient.items()} == problem.shapes


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hessian_vector_product(case: Case) -> None:
    problem = case.problem()
    v = _vector(problem)
    found = problem.flatten(problem.hessian_vector_product(problem.unflatten(v))).numpy()
    rows = _rows(problem.d)
    wanted = oracles.hessian(case.parts(), rows) @ v.numpy()
    np.testing.assert_allclose(found[rows], wanted, rtol=0, atol=1e-11 * np.abs(found).max())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_are_differences_of_gradients(case: Case) -> None:
    """Central differences use no second derivative: they would show a rule that autograd has wrong."""
    problem = case.problem()
    w, v = problem.flatten(problem.parameters), _vector(problem, 1)
    v, h = v / v.norm(), 1e-5
    ahead, behind = (problem.flatten(problem.at(problem.unflatten(w + s * h * v)).gradient()) for s in (1, -1))
    found = problem.flatten(problem.hessian_vector_product(problem.unflatten(v)))
    torch.testing.assert_close(found, (ahead - behind) / (2 * h), rtol=0, atol=1e-6 * float(found.abs().max()))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_are_symmetric(case: Case) -> None:
    problem = case.problem()
    u, v = _vector(problem, 2), _vector(problem, 3)
    with hessian(problem) as product:
        images = product(torch.stack([u, v], 1))
        assert product.products == 2
    a, b = float(u @ images[:, 1]), float(v @ images[:, 0])
    assert a == pytest.approx(b, abs=1e-11 * float(images.norm() * u.norm()))


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_dense_hessian(case: Case) -> None:
    problem = case.problem()
    wanted = oracles.hessian(case.parts())
    np.testing.assert_allclose(dense_hessian(problem).numpy(), wanted, rtol=0, atol=1e-11 * np.abs(wanted).max())
    v = _vector(problem)
    with hessian(problem) as product:  # served from the matrix now
        np.testing.assert_allclose(product(v[:, None])[:, 0].numpy(), wanted @ v.numpy(), atol=1e-10)
    if case.hessian is not None:
        np.testing.assert_allclose(wanted, case.hessian.numpy(), atol=1e-12)


@pytest.mark.parametrize("case", [BY_NAME["mlp"], BY_NAME["gpt2"]], ids=str)
def test_chunks_sum_to_the_whole(case: Case) -> None:
    whole, pieces = case.problem(), case.problem()
    pieces.chunk = 2
    v = whole.unflatten(_vector(whole))
    assert pieces.loss() == pytest.approx(whole.loss(), rel=1e-13)
    pairs = (
        (whole.gradient(), pieces.gradient()),
        (whole.hessian_vector_product(v), pieces.hessian_vector_product(v)),
    )
    for one, other in pairs:
        a, b = whole.flatten(one), whole.flatten(other)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * float(a.abs().max()))


def test_at_is_the_same_task_elsewhere() -> None:
    model, samples, loss = mlp()
    problem = Problem(model, samples, loss)
    dense_hessian(problem)
    moved = {name: p + 0.3 for name, p in problem.parameters.items()}
    other = problem.at(moved)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3)
    np.testing.assert_allclose(other.flatten(other.gradient()).numpy(), oracles.gradient((model, samples, loss)))
    np.testing.assert_allclose(dense_hessian(other).numpy(), oracles.hessian((model, samples, loss)), atol=1e-12)
    moved[problem.names[0]].zero_()
    assert float(other.parameters[problem.names[0]].abs().sum()) > 0  # a copy, not a view of the caller's tensor


def test_at_refuses_what_does_not_fit() -> None:
    problem = BY_NAME["softmax"].problem()
    with pytest.raises(InputError, match="a parameter is missing"):
        problem.at({"weight": problem.parameters["weight"]})
    with pytest.raises(InputError, match="shape"):
        problem.at({"weight": torch.zeros(5, 3), "bias": torch.zeros(3)})


def test_flatten_and_unflatten_are_inverse() -> None:
    problem = BY_NAME["cnn-batchnorm"].problem()
    v = _vector(problem)
    assert torch.equal(problem.flatten(problem.unflatten(v)), v)
    assert list(problem.unflatten(v)) == [name for name, _ in BY_NAME["cnn-batchnorm"].parts()[0].named_parameters()]


def test_a_tied_tensor_counts_once() -> None:
    model = gpt2()[0]
    problem = BY_NAME["gpt2"].problem()
    assert problem.d == sum(p.numel() for p in model.parameters())
    assert "transformer.wte.weight" in problem.names
    assert "lm_head.weight" not in problem.names


def test_the_loss_of_a_language_model_is_the_mean_over_sequences() -> None:
    """Not the batch's token mean that transformers returns: lengths differ, so the two do."""
    model, samples, _ = gpt2()
    assert isinstance(samples, dict)
    model.eval()
    with torch.no_grad():
        token_mean = float(model(**samples).loss)
    found = BY_NAME["gpt2"].problem().loss()
    assert found == pytest.approx(oracles.loss(gpt2()), rel=1e-12)
    assert abs(found - token_mean) > 1e-3


# -- the user's model ------------------------------------------------------------------------------


def _everything(problem: Problem) -> None:
    problem.loss()
    problem.gradient()
    problem.hessian_vector_product({name: torch.ones_like(p) for name, p in problem.parameters.items()})
    problem.at(problem.parameters).loss()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_model_stays_as_it_was(case: Case) -> None:
    checks.leaves_model(checks.Estimator("problem", _everything, {}), case)


@pytest.mark.parametrize("fault", ["labels", "nan-weights"], ids=str)
def test_the_model_stays_as_it_was_after_an_error(fault: str) -> None:
    model, samples, loss = mlp()
    inputs, targets = samples[0], samples[1]  # type: ignore[index]
    if fault == "labels":
        targets = targets + 100
    else:
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] = float("nan")
    parts = (model, (inputs, targets), loss)
    with checks.untouched(parts), pytest.raises(InputError):
        Problem(*parts)


def test_the_problem_keeps_its_own_copy_of_the_weights() -> None:
    model, samples, loss = mlp()
    problem = Problem(model, samples, loss)
    before = problem.loss()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert problem.loss() == before


# -- what is refused -------------------------------------------------------------------------------


def _x(n: int = 8, d: int = 4) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(5))


def _y(n: int = 8, classes: int = 3) -> Tensor:
    return torch.arange(n) % classes


def _refused(match: str, model: nn.Module, samples: Any, loss: Any = "cross-entropy") -> InputError:
    with pytest.raises(InputError, match=match) as caught:
        Problem(model, samples, loss)
    assert "\n" not in str(caught.value)
    return caught.value


class _Centred(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class _AlwaysDropped(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5, training=True)


class _Calls(nn.Module):
    """A linear layer with something done to its output."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.layer(x))


def test_coupled_samples_are_refused() -> None:
    _refused("depends on the other samples", _Centred(4, 3), (_x(), _y()))


def test_batch_norm_without_statistics_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    assert _refused("batch norm without running statistics", model, (_x(), _y())).where == "1"


def test_a_random_forward_is_refused() -> None:
    _refused("changes between two evaluations", _AlwaysDropped(4, 3), (_x(), _y()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_weights_are_refused_by_tensor(bad: float) -> None:
    last = nn.Linear(5, 3)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), last)
    with torch.no_grad():
        last.weight[1, 2] = bad
    assert _refused("weights", model, (_x(), _y())).where == "2.weight"


def test_bad_frozen_weights_are_refused_too() -> None:
    first = nn.Linear(4, 5).requires_grad_(False)
    model = nn.Sequential(first, nn.Linear(5, 3))
    with torch.no_grad():
        first.bias[0] = float("nan")
    assert _refused("weights", model, (_x(), _y())).where == "0.bias"


def test_nan_in_the_samples_is_refused() -> None:
    x = _x()
    x[3, 1] = float("nan")
    assert _refused("samples", nn.Linear(4, 3), (x, _y())).where == "inputs"


@pytest.mark.parametrize(("label", "row"), [(3, 5), (-1, 2)])
def test_labels_out_of_range_are_refused_by_row(label: int, row: int) -> None:
    y = _y()
    y[row] = label
    refusal = _refused(f"label {label}, but the model has 3 outputs", nn.Linear(4, 3), (_x(), y))
    assert refusal.where == f"sample {row}"


def test_token_labels_out_of_range_are_refused_by_row() -> None:
    model, samples, _ = gpt2()
    assert isinstance(samples, dict)
    samples["labels"][3, 2] = 20
    assert _refused("label 20, but the model has 20 outputs", model, samples).where == "sample 3"


def test_a_sequence_without_labels_is_refused() -> None:
    model, samples, _ = gpt2()
    assert isinstance(samples, dict)
    samples["labels"][2] = -100
    assert _refused("no label to predict", model, samples).where == "sample 2"


def test_a_sequence_whose_only_label_is_its_first_token_is_refused() -> None:
    """The first token is predicted from nothing: its label is shifted away."""
    model, samples, _ = gpt2()
    assert isinstance(samples, dict)
    samples["labels"][1, 1:] = -100
    assert _refused("no label to predict", model, samples).where == "sample 1"


def test_a_class_label_of_minus_100_is_refused() -> None:
    """A row without a label has no loss; its gradient of 0 would count as a measurement."""
    y = _y()
    y[4] = -100
    assert _refused("label", nn.Linear(4, 3), (_x(), y)).where == "sample 4"


@pytest.mark.parametrize(
    ("match", "model", "samples", "loss"),
    [
        ("no parameter", nn.ReLU(), (_x(), _y()), "cross-entropy"),
        ("no parameter", nn.Linear(4, 3).requires_grad_(False), (_x(), _y()), "cross-entropy"),
        ("does not depend on the parameters", _Calls(lambda s: s.detach()), (_x(), _y()), "cross-entropy"),
        ("different numbers of samples", nn.Linear(4, 3), (_x(), _y(7)), "cross-entropy"),
        ("no sample", nn.Linear(4, 3), (_x(0), _y(0)), "cross-entropy"),
        ("no labels", nn.Linear(4, 3), {"input": _x()}, "cross-entropy"),
        ("whole numbers", nn.Linear(4, 3), (_x(), _x()[:, 0]), "cross-entropy"),
        ("labels other than -1 and 1", nn.Linear(4, 1), (_x(), _y(8, 2)), "logistic"),
        ("3 outputs", nn.Linear(4, 3), (_x(), torch.ones(8)), "logistic"),
        ("does not fit", nn.Linear(4, 3), (_x(), torch.ones(8)), "squared"),
        ("unknown loss `hinge`", nn.Linear(4, 3), (_x(), _y()), "hinge"),
        ("the loss has shape", nn.Linear(4, 3), (_x(), _y()), lambda o, t: F.cross_entropy(o, t)),
        ("not finite", nn.Linear(4, 3), (_x(), _y()), lambda o, t: o.sum(1) / 0),
        ("returns list", _Calls(lambda s: [s]), (_x(), _y()), "cross-entropy"),
    ],
)
def test_unusable_input_is_refused(match: str, model: nn.Module, samples: Any, loss: Any) -> None:
    _refused(match, model, samples, loss)


# -- what is found ---------------------------------------------------------------------------------


def _codes(model: nn.Module, samples: Any = None) -> list[str]:
    found = Problem(model, samples or (_x(), _y())).findings
    for finding in found:
        assert finding.found
        assert finding.meaning
        assert finding.action
        assert finding.severity in ("note", "warning")
    return [finding.code for finding in found]


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 3)
        self.out = nn.Linear(3, 6, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.out(self.embedding(tokens))
        return output


class _Idle(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 3)
        self.idle = nn.Parameter(torch.ones(2))


def _frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    model[0].requires_grad_(False)
    return model


def _normalised(statistics: bool = True) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3) if statistics else nn.LayerNorm(3))


BAD = (
    ("dropout-on", nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.2)), None),
    ("batchnorm-eval", _normalised(), None),
    ("tied-parameters", _Tied(), (_y(8, 6), _y(8, 6))),
    ("frozen-parameters", _frozen(), None),
    ("unused-parameters", _Idle(), None),
    ("low-precision", nn.Linear(4, 3).bfloat16(), None),
)
CLEAN = (
    ("dropout-on", nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0)), None),
    ("batchnorm-eval", _normalised(statistics=False), None),
    ("tied-parameters", nn.Sequential(nn.Embedding(6, 3), nn.Linear(3, 6, bias=False)), (_y(8, 6), _y(8, 6))),
    ("frozen-parameters", nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), None),
    ("unused-parameters", nn.Linear(4, 3), None),
    ("low-precision", nn.Linear(4, 3).double(), None),
)


@pytest.mark.parametrize(("code", "model", "samples"), BAD, ids=[code for code, *_ in BAD])
def test_a_bad_case_is_found(code: str, model: nn.Module, samples: Any) -> None:
    assert _codes(model, samples) == [code]


@pytest.mark.parametrize(("code", "model", "samples"), CLEAN, ids=[code for code, *_ in CLEAN])
def test_a_clean_case_is_quiet(code: str, model: nn.Module, samples: Any) -> None:
    assert code in [bad for bad, *_ in BAD]
    assert _codes(model, samples) == []


def test_unused_parameters_are_named() -> None:
    (finding,) = Problem(_Idle(), (_x(), _y())).findings
    assert "idle" in finding.found


# -- cost ------------------------------------------------------------------------------------------


def test_passes_are_counted() -> None:
    problem = BY_NAME["mlp"].problem()
    opening = problem.passes.total
    problem.gradient()
    assert problem.passes.total == pytest.approx(opening + 1)
    problem.loss()
    assert problem.passes.total == pytest.approx(opening + 4 / 3)
    problem.hessian_vector_product(problem.parameters)
    assert problem.passes.total == pytest.approx(opening + 4 / 3 + 3)
    assert problem.subset(torch.arange(3)).passes.total == 0


def test_a_loss_linear_in_the_parameters_is_not_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 1), nn.ReLU())
    problem = Problem(model, (torch.randn(50, 3), torch.zeros(50)), lambda output, _: output[:, 0])
    assert float(dense_hessian(problem).abs().max()) == 0


def test_gradients_that_are_off_are_switched_on() -> None:
    model, samples = nn.Linear(3, 2), (torch.randn(8, 3), torch.arange(8) % 2)
    with torch.no_grad():
        assert Problem(model, samples).gradient()["weight"].abs().sum() > 0
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        Problem(model, samples)


def test_a_function_named_like_a_loss_is_not_taken_for_it() -> None:
    def squared(output: Tensor, targets: Tensor) -> Tensor:
        return (output[:, 0] - targets).square()

    problem = Problem(nn.Linear(3, 1), (torch.randn(8, 3), torch.randn(8)), squared)
    assert problem.loss_name is None


@pytest.mark.parametrize(("limit", "allowed"), [("OUTER_NUMBERS", (100, 50)), ("SAVED_NUMBERS", (1200, 600))])
def test_pieces_are_smaller_where_a_sample_holds_more(
    limit: str, allowed: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the numbers allowed, half of the samples at once; the sums are the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 50), nn.Tanh(), nn.Linear(50, 2)).double()
    samples = (torch.randn(24, 3, dtype=torch.float64), torch.randint(0, 2, (24,)))
    whole = Problem(model, samples)
    assert whole.chunk == 24
    sizes = []
    for numbers in allowed:
        monkeypatch.setattr(examine, limit, numbers)
        cut = Problem(model, samples)
        sizes.append(cut.chunk)
        torch.testing.assert_close(cut.flatten(cut.gradient()), whole.flatten(whole.gradient()))
    # A sample holds 3 + 2 numbers at both ends; its hidden layer of 50 is kept for backward.
    assert sizes == ([20, 10] if limit == "OUTER_NUMBERS" else [sizes[0], sizes[0] // 2])
    assert 1 < sizes[1] < sizes[0] < 24


def test_a_forward_that_fails_leaves_the_modes_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    with pytest.raises(InputError, match="the model cannot take these samples"):
        Problem(model, (torch.randn(5, 2), torch.tensor([0, 1, 0, 1, 0])))
    assert all(module.training for module in model.modules())


class Fixed(nn.Module):
    """Returns what a function makes of its logits, (n, 3)."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.layer(x))


def leave(logits: Tensor) -> Tensor:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda logits: logits[:1], "returns shape .1, 3. for 4 samples"),
        (lambda logits: logits.T, "returns shape .3, 4. for 4 samples"),
        (lambda logits: logits.long(), "returns torch.int64 numbers"),
        (lambda logits: logits + 1j, "returns torch.complex64 numbers"),
        (leave, "cannot take these samples"),
    ],
)
@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
def test_what_forward_returns_is_checked(change: Callable[[Tensor], Tensor], match: str, loss: str) -> None:
    targets = torch.zeros(6, 3) if loss == "squared" else torch.zeros(6, dtype=torch.long)
    with pytest.raises(InputError, match=match):
        Problem(Fixed(change), (torch.ones(6, 4), targets), loss)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: nn.LazyLinear(3), "without numbers"),
        (lambda: nn.Linear(4, 3, device="meta"), "without numbers"),
        (lambda: nn.Linear(4, 3, dtype=torch.complex64), "complex parameters"),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.LazyBatchNorm1d(affine=False)), "a buffer without numbers"),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, device="meta", affine=False)), "a buffer without"),
        (lambda: nn.Linear(4, 3).to(torch.float8_e4m3fn), "parameters of 8 bits"),
        (lambda: _with_parameter(torch.eye(3).to_sparse()), "sparse parameters"),
    ],
)
def test_parameters_that_are_no_real_numbers(model: Callable[[], nn.Module], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Problem(model(), (torch.ones(6, 4), torch.zeros(6, dtype=torch.long)))


def _with_parameter(tensor: Tensor) -> nn.Module:
    model = nn.Linear(4, 3)
    model.register_parameter("own", nn.Parameter(tensor))
    return model


@pytest.mark.parametrize("change", [lambda x: x.to("meta"), lambda x: x.to_sparse()])
def test_samples_without_dense_numbers(change: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(InputError, match="no dense tensor of numbers: inputs"):
        Problem(nn.Linear(4, 3), (change(torch.ones(6, 4)), torch.zeros(6, dtype=torch.long)))


def test_an_embedding_that_counts_tokens_is_refused() -> None:
    """Its gradient of a batch is not the sum over the samples."""
    model = nn.Sequential(nn.Embedding(5, 3, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(InputError, match="scales its gradient by frequency"):
        Problem(model, (torch.randint(0, 5, (4, 2)), torch.tensor([0, 1, 0, 1])))


def test_other_samples_are_checked_as_the_first_ones_are() -> None:
    problem = Problem(nn.Linear(3, 2), (torch.randn(8, 3), torch.arange(8) % 2))
    inputs, labels = torch.randn(6, 3), torch.arange(6) % 2
    assert problem.with_samples((inputs, labels)).passes.total == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="label 7, but the model has 2 outputs: sample 5"):
        problem.with_samples((inputs, torch.tensor([0, 1, 0, 1, 0, 7])))
    with pytest.raises(InputError, match="a sample has no label to predict: sample 1"):
        problem.with_samples((inputs, torch.tensor([0, -100, 0, 1, 0, 1])))
    with pytest.raises(InputError, match="the model cannot take these samples"):
        problem.with_samples((torch.randn(6, 4), labels))


class Looks(nn.Module):
    """Rows of a table of 10 for five numbers of each sample, looked up in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.table, self.bag, self.out = nn.Embedding(10, 4), nn.EmbeddingBag(10, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.table.weight
        looked: dict[str, Callable[[], Tensor]] = {
            "module": lambda: self.table(x),
            "function": lambda: F.embedding(x, weight),
            "flat": lambda: self.table(x.flatten()).reshape(*x.shape, -1),
            "floats": lambda: self.table(x.long()),
            "bag": lambda: self.bag(x)[:, None],
            "index": lambda: weight[x],
            "classes": lambda: F.one_hot(x, 10).to(weight) @ weight,
        }
        output: Tensor = self.out(looked[self.how]().mean(1))
        return output


def numbers(how: str, rows: dict[int, int]) -> tuple[Tensor, Tensor]:
    """60 samples of numbers from 0 to 9 but for one in some rows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 10, (60, 5), generator=generator)
    for row, number in rows.items():
        x[row, 3] = number
    return x.float() if how == "floats" else x, torch.randint(0, 3, (60,), generator=generator)


@pytest.mark.parametrize(("row", "number"), [(2, 12), (50, 12), (50, -1)])
@pytest.mark.parametrize("how", ["module", "function", "flat", "floats", "bag"])
def test_a_number_without_a_row_is_named_with_its_sample(how: str, row: int, number: int) -> None:
    with pytest.raises(InputError) as refused:
        Problem(Looks(how), numbers(how, {row: number, 57: 99}))
    assert str(refused.value) == f"number {number}, but an embedding of Looks has rows 0 to 9: sample {row}"
    problem = Problem(Looks(how), numbers(how, {}))
    with pytest.raises(InputError, match=f"number {number}, but an embedding of Looks has rows 0 to 9: sample {row}"):
        problem.with_samples(numbers(how, {row: number}))


@pytest.mark.parametrize(("how", "said"), [("index", "index 12 is out of bounds"), ("classes", "Class values must")])
@pytest.mark.parametrize("row", [0, 50])
def test_a_sample_that_forward_does_not_take_is_named_with_its_numbers(how: str, said: str, row: int) -> None:
    match = f"the model cannot take these samples: sample {row} with numbers from [0-9] to 12, Looks: {said}"
    with pytest.raises(InputError, match=match):
        Problem(Looks(how), numbers(how, {row: 12}))


def test_what_every_sample_raises_is_no_samples_fault() -> None:
    with pytest.raises(InputError, match="the model cannot take these samples: Looks: index 12 is out of bounds"):
        Problem(Looks("index"), numbers("index", dict.fromkeys(range(60), 12)))


def test_looking_at_all_numbers_is_a_forward_pass() -> None:
    assert _beside_derivatives(Problem(Looks("module"), numbers("module", {}))) == pytest.approx(1 / 3)
    assert _beside_derivatives(BY_NAME["mlp"].problem()) == pytest.approx(0)


def _beside_derivatives(problem: Problem) -> float:
    """Passes that opening took, without those of the check of derivatives."""
    opening = problem.passes.total
    curvature_fault(problem)
    return 2 * opening - problem.passes.total
