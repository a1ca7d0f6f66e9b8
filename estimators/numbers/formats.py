"""Number formats: which are coarse, and the coarsest of several."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

COARSE = (torch.float16, torch.bfloat16)
"""Number formats whose rounding drowns small noise and curvature."""
TOO_COARSE = "rounding of half precision exceeds what the bounds allow for; use model.float(), and no autocast"
"""Why a result of theirs has no confidence."""


def coarsest(formats: Iterable[torch.dtype]) -> torch.dtype:
    """The number format that rounds most."""
    return max(formats, key=lambda dtype: torch.finfo(dtype).eps)


def weights_precision(model: nn.Module) -> torch.dtype:
    """The format that rounds most, of all parameters: adapters in float32 may stand on a bfloat16 model."""
    return coarsest(p.dtype for p in model.parameters() if p.is_floating_point())
