"""Rows of a benchmark, printed and written as Markdown and JSON with the versions behind them."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from diagnose import __version__

RESULTS = Path(__file__).parent / "results"
DISTRIBUTIONS = {
    "torch.func": "torch",
    "opacus": "opacus",
    "backpack": "backpack-for-pytorch",
    "curvlinops": "curvlinops-for-pytorch",
    "hessian-eigenthings": "hessian-eigenthings",
    "scipy": "scipy",
    "cvxpy": "cvxpy",
    "clarabel": "clarabel",
}


@dataclass(frozen=True)
class Row:
    """One method on one task.

    Costs are times in forward+backward passes over the same samples, ``products`` those with the Hessian; errors are
    relative. ``bound`` says what bound comes with the value, and how far its ends are from the exact one.
    """

    benchmark: str
    task: str
    method: str
    cost: float | None = None
    further: float | None = None
    products: float | None = None
    error: float | None = None
    bound: str = ""
    note: str = ""


COLUMNS: Mapping[str, tuple[str, str]] = {
    "cost": ("cost, fb", ".2f"),
    "further": ("each further vector, fb", ".2f"),
    "products": ("products", ".0f"),
    "error": ("relative error", ".1e"),
    "bound": ("bound", ""),
    "note": ("", ""),
}
"""Heading and number format of a field; those that no row of a table has are left out."""


def versions() -> dict[str, str]:
    """Of Python, of torch with its threads, and of every library that is installed."""
    found = {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
    found |= {"diagnose": __version__, "torch": torch.__version__}
    for method, distribution in DISTRIBUTIONS.items():
        try:
            found[method] = version(distribution)
        except PackageNotFoundError:
            found[method] = "not installed"
    return found


def markdown(rows: Sequence[Row]) -> str:
    """A table for each benchmark."""
    parts = ["# Benchmarks\n", ", ".join(f"{name} {text}" for name, text in versions().items()) + "\n"]
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        parts.append(f"## {benchmark}\n")
        own = [row for row in rows if row.benchmark == benchmark]
        shown = [key for key in COLUMNS if any(getattr(row, key) not in (None, "") for row in own)]
        parts.append(_line(["task", "method", *(COLUMNS[key][0] for key in shown)]))
        parts.append("|" + "---|" * (2 + len(shown)))
        parts += [
            _line([row.task, row.method, *(_cell(getattr(row, key), COLUMNS[key][1]) for key in shown)]) for row in own
        ]
        parts.append("")
    return "\n".join(parts)


def write(rows: Sequence[Row], name: str) -> Path:
    """Write results/NAME.md and results/NAME.json; returns the first."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.md"
    path.write_text(markdown(rows), encoding="utf-8")
    body = {"versions": versions(), "rows": [asdict(row) for row in rows]}
    path.with_suffix(".json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    return path


def _line(cells: Sequence[str]) -> str:
    """One row of a table; a bar within a cell would end it."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cell(value: float | str | None, form: str) -> str:
    return "–" if value is None else format(value, form)
