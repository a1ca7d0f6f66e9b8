"""The problem that every estimator takes: f(w) = (1/n) sum_i l_i(w) for a model, its samples and a loss, checked.

Estimators see the data only through sums over samples: :meth:`Problem.loss`, :meth:`Problem.gradient`,
products with the Hessian (``products.py``) and per-sample gradient moments (``per_sample``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from estimators.errors import InputError
from estimators.numbers.formats import coarsest
from estimators.task import memory_limit
from estimators.task.checks import examine, examine_others, refuse_unmade
from estimators.task.derivative_checks import curvature_fault, finding
from estimators.task.function import Function, Parameters, Samples
from estimators.task.losses import LossFunction
from estimators.task.model_kinds import unwrapped
from estimators.task.module_checks import side_effects
from estimators.task.products import hessian


class Problem(Function):
    """f(w) = (1/n) sum_i l_i(w) at one point w.

    Args:
        model: any module. It is never changed: parameters and buffers are copied, evaluation mode and
            random state last as long as a call. Coordinates are the parameters that require a gradient and hold
            numbers, tied tensors once under their first name; of a compiled or parallel module those of the module
            inside.
        samples: ``(inputs, targets)``, or a mapping of tensors that forward takes by name with ``labels``
            (-100 is ignored; shifted for causal language models as in transformers). The first dimension
            counts the samples.
        loss: ``"cross-entropy"``, ``"logistic"`` (targets +-1), ``"squared"`` (half the squared error), or
            a function (output, targets) -> one loss for each sample, shape (n,).
        memory_bytes: what measuring may take beyond the model, a copy of its parameters, the samples and Python; see
            ``memory_limit.py``. Estimators do with it what they can. Default: no limit but their own constants.
        forms_hessian: whether the Hessian is formed as a (d, d) matrix: results are exact then. Else it is met through
            products with vectors. Default: formed up to 2,000 coordinates.

    Raises:
        InputError: nothing to differentiate, NaN in the weights, a loss that is not finite, differs between
            two evaluations, or couples the samples; a next-token model that sees its labels; targets that do not fit; a
            forward that changes its parameters; TorchScript; a memory limit that nothing fits into.

    Examples:
        >>> import torch
        >>> from estimators import Problem
        >>> samples = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), samples, loss="squared")  # H = diag(2, 1/2)
        >>> problem.n, problem.d
        (2, 2)
        >>> problem.hessian_vector_product({"weight": torch.ones(1, 2)})
        {'weight': tensor([[2.0000, 0.5000]])}
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples | Mapping[str, Tensor],
        loss: str | LossFunction = "cross-entropy",
        *,
        memory_bytes: int | None = None,
        forms_hessian: bool | None = None,
    ) -> None:
        if torch.is_inference_mode_enabled():
            raise InputError("gradients are off", "torch.inference_mode()", "leave the inference mode for this call")
        refuse_unmade(unwrapped(model)[0])
        super().__init__(model, samples, loss, memory_bytes=memory_bytes, forms_hessian=forms_hessian)
        self._examine()

    def with_samples(self, samples: Samples | Mapping[str, Tensor], *, every: bool = True) -> Problem:
        """The same model on other samples of the same kind, with passes counted apart (over them).

        Args:
            samples: as those that a problem is made with.
            every: whether forward is tried on all of them; of many, on those with the smallest and the largest numbers.

        Cost: a forward pass over them, and some over a few; without ``every`` over a few alone.

        Raises:
            InputError: samples that the model can't take, targets that do not fit, samples that depend on each other.
        """
        other = self.on(self.prepared(samples))
        examine_others(other, every)
        return other

    def hessian_vector_product(self, vector: Mapping[str, Tensor]) -> Parameters:
        """H v with H = nabla^2 f(w), by double backward."""
        flat = self.flatten(self.fitting(vector)).to(self.dtype)
        with hessian(self) as product:
            return self.unflatten(product(flat[:, None])[:, 0])

    def _examine(self) -> None:
        """Checks of a new problem: targets, coupling, determinism; sets the chunk size and the findings."""
        self.effects = side_effects(self)
        if self.effects.coarse is not None:
            self.precision = coarsest((self.precision, self.effects.coarse))
        self.chunk, self.findings = examine(self)
        self.measure_graphs()
        self.curvature_fault = curvature_fault(self)
        if self.curvature_fault is not None:
            self.findings = (*self.findings, finding(self.curvature_fault))

    def measure_graphs(self) -> None:
        """Under a memory limit: what graphs keep, and with it the chunk size. Not counted as passes."""
        if self.memory_bytes is not None:
            self.graph_sizes = memory_limit.graph_sizes(self)
            self.chunk = memory_limit.fitting_chunk(self, self.chunk)
