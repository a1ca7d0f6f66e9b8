"""What a forward changes beside returning its output, and every call seeing the same numbers all the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimators.errors import InputError
from estimators.task.lookups import DenseGradients
from estimators.task.module_state import Places, same_numbers, undone


@dataclass(frozen=True)
class SideEffects:
    """What forward changes, each with what it is to see in every call.

    ``inputs``, ``targets``, ``parameters``: it works in place on them, though these parameters came out as they were.
    ``state``: numbers of buffers and frozen parameters that it overwrites. ``places``: what modules hold beside those.
    ``sparse``: it looks up embeddings with sparse gradients. ``paddings``: embeddings, by the parameter that they look
    up, and the row to which the lookup gives no gradient. ``coarse``: the format that rounds most among those that it
    computes in. ``training_only``: parameters that the loss reaches in training mode and not in evaluation mode.
    """

    inputs: bool = False
    targets: bool = False
    parameters: frozenset[str] = frozenset()
    state: Mapping[str, Tensor] = field(default_factory=dict)
    places: Places = ()
    sparse: bool = False
    paddings: tuple[tuple[str, int], ...] = ()
    coarse: torch.dtype | None = None
    training_only: tuple[str, ...] = ()

    def fresh_targets(self, tensor: Tensor) -> Tensor:
        return tensor.clone() if self.targets else tensor

    @contextlib.contextmanager
    def undone(
        self, fixed: Mapping[str, Tensor], parameters: Mapping[str, Tensor], samples: Mapping[str, Tensor]
    ) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """Around one forward: all that it reads besides samples, and these, as it may change them.

        Raises:
            InputError: it changed what was to stay.
        """
        state = {**fixed, **parameters, **{name: tensor.clone() for name, tensor in self.state.items()}}
        state |= {name: parameters[name].clone() for name in self.parameters & parameters.keys()}
        fresh = {name: tensor.clone() if self.inputs else tensor for name, tensor in samples.items()}
        versions = [tensor._version for tensor in fresh.values()]
        with undone(self.places), DenseGradients() if self.sparse else contextlib.nullcontext():
            yield state, fresh
        for name in self.parameters & parameters.keys():
            if not same_numbers(state[name].detach(), parameters[name].detach()):
                raise changed_parameter(name)
        if not self.inputs and versions != [tensor._version for tensor in fresh.values()]:
            raise InputError("forward works in place on some samples and not on others", "samples", "let it copy them")


def changed_parameter(name: str) -> InputError:
    return InputError(
        "forward changes a parameter in place, which torch does not differentiate",
        name,
        "change it before this call (an embedding's `max_norm`), or with torch.nn.utils.parametrize",
    )


CAREFUL = SideEffects(inputs=True, targets=True)
"""Before anything is known."""
