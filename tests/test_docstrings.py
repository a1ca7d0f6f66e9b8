"""Every public function and class has an example in its docstring, and the example gives what it says."""

from __future__ import annotations

import doctest
from typing import Any

import pytest

import diagnose
import estimators

PUBLIC = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in (diagnose, estimators)
    for name in package.__all__
    if name != "__version__"
}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_gives_what_it_says(name: str) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs={})
    assert example.examples, "no example"
    lines: list[str] = []
    failed: Any = doctest.DocTestRunner().run(example, out=lines.append).failed
    assert not failed, "".join(lines)
