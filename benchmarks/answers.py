"""``python -m benchmarks.answers [--tasks mlp:digits,…] [--orders 64] [--earlier DIR] [--out DIR]``.

The answers with the defaults, each in a process of its own as a user starts it, beside those of the same tasks with a
fixed number of orders of the batches (the folder goes on: only orders are added); a table in Markdown. ``--earlier``
names a folder with another version of the packages, whose times are put beside. Times are those of the processor, so
that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TASKS = (
    "logreg:breast-cancer",
    "logreg:a4a",
    "logreg:w8a",
    "softmax:wine",
    "softmax:iris",
    "softmax:digits",
    "softmax:breast-cancer",
    "mlp:digits",
    "mlp:wine",
    "mlp:iris",
    "mlp:breast-cancer",
    "mlp:diabetes:squared",
    "cnn:digits",
    "gpt2-mini:pydoc-topics",
)
MOST_ORDERS = "64"
LONG = ("gpt2-mini:pydoc-topics",)
"""Tasks whose reference would take hours."""


def diagnosed(task: str, folder: Path, *options: str, packages: Path | None = None) -> tuple[float, dict[str, Any]]:
    """Processor seconds that the command takes, and its result."""
    model, data, *loss = task.split(":")
    words = ["--out", str(folder), *(["--loss", *loss] if loss else []), *options]
    environment = os.environ | ({} if packages is None else {"PYTHONPATH": str(packages)})
    began = _spent()
    subprocess.run(
        [sys.executable, "-m", "diagnose", model, "--data", data, "--quiet", *words],
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    return _spent() - began, json.loads((folder / "result.json").read_text(encoding="utf-8"))


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def said(result: Mapping[str, Any]) -> str:
    """Answer, speed-up and interval."""
    training = result["training"]
    if training["speedup"] is None:
        return str(result["verdict"]["answer"])
    ends = training["speedup_interval"]
    known = "" if ends is None else f" [{ends[0]:.2f}, {ends[1]:.2f}]"
    return f"{result['verdict']['answer']}, {training['speedup']:.2f}{known}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers", description=__doc__)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--orders", default=MOST_ORDERS, help="of the reference; 0: none")
    parser.add_argument("--earlier", type=Path, help="a folder with another version of the packages")
    parser.add_argument("--out", type=Path, default=Path("answers"))
    asked = parser.parse_args()
    head = [
        "task",
        "answer",
        "orders",
        "CPU seconds",
        f"{asked.orders} orders",
        *(["CPU seconds before"] * bool(asked.earlier)),
    ]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    for task in asked.tasks.split(","):
        folder = asked.out / task.replace(":", "-")
        before = None
        if asked.earlier is not None:
            before, _ = diagnosed(task, folder.with_name(folder.name + "-before"), "--fresh", packages=asked.earlier)
        seconds, found = diagnosed(task, folder, "--fresh")
        row = [task.replace(":", " "), said(found), str(found["task"]["seeds"]), f"{seconds:.0f}"]
        if asked.orders == "0" or task in LONG:
            row.append("not run")
        elif str(found["task"]["seeds"]) == asked.orders:
            row.append("the same")
        else:
            row.append(said(diagnosed(task, folder, "--seeds", asked.orders)[1]))
        row += [] if before is None else [f"{before:.0f}"]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
