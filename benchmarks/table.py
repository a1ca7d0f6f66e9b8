"""Rows of a benchmark, printed and written as Markdown and JSON with the versions behind them."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
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
}


@dataclass(frozen=True)
class Row:
    """One method on one task. Costs are in forward+backward passes over the same samples, errors are relative."""

    benchmark: str
    task: str
    method: str
    cost: float | None = None
    further: float | None = None
    error: float | None = None
    note: str = ""


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
        parts.append("| task | method | cost, fb | each further vector, fb | relative error | |")
        parts.append("|---|---|---|---|---|---|")
        parts += [
            f"| {row.task} | {row.method} | {_number(row.cost, '.2f')} | {_number(row.further, '.2f')} "
            f"| {_number(row.error, '.1e')} | {row.note} |"
            for row in rows
            if row.benchmark == benchmark
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


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
