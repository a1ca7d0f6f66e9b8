"""What an optimizer of the user's is: a digest that tells two of the same name apart."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from diagnose.inputs.fingerprint import source


def digests(own: Mapping[str, Callable[..., Any]]) -> dict[str, str]:
    """sha256 in hexadecimal by name, the same in every process.

    Over module, qualified name and source code, where it can be read, of a class or function; the arguments of a
    ``functools.partial``; what a function closes over and its defaults; the attributes of a callable object. Numbers,
    text and what holds them count with their values, other objects with their class. Globals that the code reads do
    not count.
    """
    return {
        name: hashlib.sha256(json.dumps(_described(one, frozenset())).encode()).hexdigest() for name, one in own.items()
    }


def _described(value: Any, above: frozenset[int]) -> Any:
    """As JSON has it; ``above`` names the objects that hold this one, which may hold them."""
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return repr(value)
    if id(value) in above:
        return "above"
    above |= {id(value)}

    def each(held: Any) -> Any:
        return _described(held, above)

    if isinstance(value, (tuple, list)):
        return [each(one) for one in value]
    if isinstance(value, Mapping):
        return [[each(key), each(one)] for key, one in value.items()]
    if isinstance(value, partial):
        return ["partial", each(value.func), each(value.args), each(value.keywords)]
    if inspect.isfunction(value):
        closed = dict(inspect.getclosurevars(value).nonlocals)
        return [_name(value), source(value), each([closed, value.__defaults__, value.__kwdefaults__])]
    if inspect.ismethod(value):
        return ["method", each(value.__func__), each(value.__self__)]
    if isinstance(value, type) or inspect.isroutine(value):
        return [_name(value), source(value)]
    held = vars(value) if callable(value) and not isinstance(value, nn.Module) and hasattr(value, "__dict__") else {}
    return ["object", each(type(value)), each(held)]


def _name(code: Any) -> str:
    return f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', '')}"
