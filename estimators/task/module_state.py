"""What a module holds beside its parameters and buffers, and forwards that change it.

A module may hold on to functions of its weights (a kernel made once for evaluation), grow a list, count its calls, or
write into a tensor. A sum over samples then depends on the calls before it, and the user's model does not stay as it
was. :class:`Snapshot` says which places a forward changed; :func:`undone` lets each forward see them as they were.
"""

from __future__ import annotations

import contextlib
import types
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

DEPTH, LONG = 3, 1000
"""Containers and objects are looked into so deep, and those with more members only from outside."""
ABSENT: Any = object()
"""What is at a key that is not there."""
REGISTERED = ("_parameters", "_buffers", "_modules")
"""What torch registers: no attributes of the user's."""
VALUES = (bool, int, float, complex, str, bytes, type(None))
OPAQUE = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType, Enum, nn.Parameter)


@dataclass(frozen=True)
class Entry:
    """An attribute of a module or an object, or a value of a dictionary."""

    holder: dict[Any, Any]
    key: Any

    @property
    def address(self) -> tuple[Any, ...]:
        return id(self.holder), self.key

    def read(self) -> Any:
        return self.holder.get(self.key, ABSENT)

    def write(self, value: Any) -> None:
        if value is ABSENT:
            self.holder.pop(self.key, None)
        else:
            self.holder[self.key] = value


@dataclass(frozen=True)
class Members:
    """All that a list, a set or a queue holds."""

    holder: Any

    @property
    def address(self) -> tuple[Any, ...]:
        return (id(self.holder),)

    def read(self) -> Any:
        return list(self.holder)

    def write(self, value: Any) -> None:
        self.holder.clear()
        (self.holder.update if isinstance(self.holder, set) else self.holder.extend)(value)


@dataclass(frozen=True)
class Numbers:
    """The numbers of a tensor that is an attribute."""

    tensor: Tensor

    @property
    def address(self) -> tuple[Any, ...]:
        return (id(self.tensor),)

    def read(self) -> Tensor:
        return self.tensor.detach().clone()

    def write(self, value: Tensor) -> None:
        self.tensor.detach().copy_(value)


Place = Entry | Members | Numbers
Places = tuple[tuple[Place, Any], ...]
"""Places with what each forward is to see there."""


class Snapshot:
    """What a model's modules hold at one moment, looked into as deep as :data:`DEPTH`."""

    def __init__(self, model: nn.Module) -> None:
        self._holders: dict[int, tuple[Any, Any]] = {}
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}
        modules = list(model.modules())
        self._registered = {id(module) for module in modules}
        for module in modules:
            for held in (module.__dict__, module._parameters, module._buffers):
                self._holders[id(held)] = held, held.copy()  # a problem has its own parameters and buffers
        for module in modules:
            for value in list(module.__dict__.values()):
                self._look(value, 1)

    def _look(self, value: Any, depth: int) -> None:
        if id(value) in self._holders or id(value) in self._tensors or id(value) in self._registered:
            return
        if isinstance(value, (*VALUES, *OPAQUE)):
            return
        if isinstance(value, Tensor):
            if value.layout == torch.strided and not value.is_meta:
                self._tensors[id(value)] = value, value.detach().clone()
        elif isinstance(value, (dict, list, set, deque)):
            self._holders[id(value)] = value, dict(value) if isinstance(value, dict) else list(value)
            if depth < DEPTH and len(value) <= LONG:
                for member in value.values() if isinstance(value, dict) else value:
                    self._look(member, depth + 1)
        elif isinstance(value, tuple):
            for member in value if depth < DEPTH and len(value) <= LONG else ():
                self._look(member, depth + 1)
        elif isinstance(getattr(value, "__dict__", None), dict) and depth < DEPTH:
            self._look(value.__dict__, depth + 1)

    def changes(self) -> Places:
        """The places that hold something else now, with what they held."""
        found: list[tuple[Place, Any]] = []
        for holder, before in self._holders.values():
            if isinstance(holder, dict):
                keys = dict.fromkeys([*before, *holder])
                entries = [(Entry(holder, key), before.get(key, ABSENT)) for key in keys]
                found += [(entry, value) for entry, value in entries if not _same(entry.read(), value)]
            elif len(holder) != len(before) or not all(map(_same, holder, before)):
                found.append((Members(holder), before))
        for tensor, numbers in self._tensors.values():
            if not same_numbers(tensor.detach(), numbers):
                found.append((Numbers(tensor), numbers))
        return tuple(found)

    def put_back(self) -> Places:
        """Every place holds again what it held; returns those that had changed."""
        places = self.changes()
        with torch.no_grad():
            for place, value in places:
                place.write(value)
        return places


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, VALUES) and one == other)


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Equal tensors, where NaN equals NaN."""
    if one.shape != other.shape:
        return False
    if torch.equal(one, other):
        return True
    equal = (one == other) | ((one != one) & (other != other))
    return bool(equal.all())


@contextlib.contextmanager
def undone(places: Iterable[tuple[Place, Any]]) -> Iterator[None]:
    """While it lasts the places hold what is given with them; at its end, what they held before."""
    places = tuple(places)
    if not places:
        yield
        return
    before = [place.read() for place, _ in places]
    with torch.no_grad():
        for place, value in places:
            place.write(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for (place, _), value in zip(places, before, strict=True):
                place.write(value)


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[Snapshot]:
    """What the modules hold is put back at the end."""
    snapshot = Snapshot(model)
    try:
        yield snapshot
    finally:
        snapshot.put_back()


def held_tensors(model: nn.Module) -> Places:
    """Tensors among the attributes of the modules, alone, in a tuple or a list, or as values of a dictionary; each with
    nothing in its place."""
    found: dict[tuple[Any, ...], tuple[Entry, Any]] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            entries: list[tuple[Entry, Any]] = []
            if _holds_tensor(value):
                entries = [(Entry(module.__dict__, name), None)]
            elif isinstance(value, dict) and name not in REGISTERED:
                entries = [(Entry(value, key), ABSENT) for key, member in value.items() if _holds_tensor(member)]
            found |= {entry.address: (entry, nothing) for entry, nothing in entries}
    return tuple(found.values())


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(isinstance(member, Tensor) for member in value)
    return isinstance(value, Tensor)
