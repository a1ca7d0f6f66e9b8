"""Models that a function of the user's makes: ``package.module:factory``."""

from __future__ import annotations

import importlib
import re
import traceback
from functools import reduce
from pathlib import Path

from torch import nn

from diagnose.errors import InputError
from diagnose.inputs.models.loaded import Loaded
from diagnose.inputs.models.reading import first_line, importing_from_here
from diagnose.inputs.random_state import seeded
from diagnose.settings import printable
from estimators.task.checks import refuse_unmade
from estimators.task.model_kinds import unwrapped

FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
"""Two dotted Python names with a colon between."""


def open_factory(word: str, seed: int) -> Loaded:
    """Call a factory without arguments, its random numbers following the seed.

    The module is looked for in the working folder first, as ``python -m`` does.

    Raises:
        InputError: no such module or name, not callable, an exception inside, a result that is no module.
    """
    module_name, _, name = word.partition(":")
    where = printable(word)
    with importing_from_here(), seeded(seed):  # also while importing, which may draw numbers or not
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise _failed("the module cannot be imported", where, error) from error
            hint = "the working folder is searched first, then what is installed"
            raise InputError(f"no module `{printable(error.name)}`", where, hint) from None
        except (Exception, SystemExit) as error:  # an import runs whatever the module holds
            raise _failed("the module cannot be imported", where, error) from error
        try:
            factory = reduce(getattr, name.split("."), module)
        except AttributeError:
            raise InputError(f"no `{printable(name)}` in {printable(module_name)}", where) from None
        if not callable(factory) or isinstance(factory, nn.Module):
            kind = printable(type(factory).__name__)
            raise InputError(f"not a function: a {kind}", where, "name a function that returns the model")
        try:
            with seeded(seed):
                model = factory()
        except (Exception, SystemExit) as error:  # the user's own code
            raise _failed("the factory fails", where, error) from error
    if not isinstance(model, nn.Module):
        kind = printable(type(model).__name__)
        raise InputError(f"the factory returns a {kind}", where, "return a torch.nn.Module")
    model, _ = unwrapped(model)
    refuse_unmade(model)
    form = f"{printable(type(model).__name__)} made with seed {seed}"
    return Loaded(model.cpu().eval(), where, form)


def _failed(what: str, where: str, error: BaseException) -> InputError:
    """An exception of the user's code with the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    if isinstance(error, SyntaxError):
        place = f", {Path(error.filename or '').name} line {error.lineno}"
    reason = f"{type(error).__name__}: {first_line(error)}"
    return InputError(what, f"{where}: {reason}{printable(place)}", "call it in Python without arguments to see more")
