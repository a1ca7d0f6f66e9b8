"""Writes the golden results: ``python -m tests.golden.make [NAME ...]``.

Small real runs that together hold every key that a run writes; of each the folder's result.json and runs.csv are kept.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diagnose

GOLDEN = Path(__file__).parent
KEPT = ("result.json", "runs.csv")
TASKS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "linear": ("logreg", "breast-cancer", {"steps": 12, "seeds": 4, "box": 4.0, "gap": 0.2}),
    "sweep": (
        "softmax",
        "iris",
        {"steps": 12, "seeds": 4, "samples": 100, "batch_sizes": (8, 40, 150), "schedule": "inverse-sqrt"},
    ),
    "network": (
        "mlp",
        "iris",
        {"steps": 10, "seeds": 4, "samples": 60, "optimizers": ("sgd", "adagrad", "adam"), "budget": "20m"},
    ),
    "language": (
        "gpt2-mini",
        "pydoc-topics",
        {"steps": 4, "seeds": 1, "samples": 8, "max_length": 16, "probes": 4, "optimizers": ("sgd", "adagrad")},
    ),
    "measured": ("logreg", "breast-cancer", {"training": False, "rotate": True}),
    "skipped": (
        "softmax",
        "iris",
        {"skip": ("smoothness", "spectrum", "hessian-diagonal", "generalized-smoothness", "training")},
    ),
}


def make(name: str) -> None:
    """Run one task and keep the files of its folder."""
    model, data, settings = TASKS[name]
    (GOLDEN / name).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        diagnose.run(model, data, out=folder, **settings)
        for file in KEPT:
            shutil.copy(Path(folder, file), GOLDEN / name / file)


if __name__ == "__main__":
    for name in sys.argv[1:] or TASKS:
        make(name)
