"""Should AdaGrad help on this task, and how sure are we?

``diagnose.run(model, data, loss=..., **settings)`` measures and trains; ``diagnose.Diagnosis.load(DIR)``
reads what the command wrote; ``diagnose.save(model, path)`` writes a model that the command opens.
Importing this package loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diagnose.errors import InputError

if TYPE_CHECKING:
    from diagnose.inputs.models.save import save
    from diagnose.pipeline import run
    from reports.record.diagnosis import Diagnosis

__version__ = "0.1.0"
__all__ = ["Diagnosis", "InputError", "__version__", "run", "save"]


def __getattr__(name: str) -> Any:
    if name == "run":
        from diagnose.pipeline import run

        return run
    if name == "Diagnosis":
        from reports.record.diagnosis import Diagnosis

        return Diagnosis
    if name == "save":
        from diagnose.inputs.models.save import save

        return save
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
