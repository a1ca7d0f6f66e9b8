"""``python -m benchmarks.budget [--tasks logreg:breast-cancer,…] [--budgets 1m,3m,10m] [--plan]``.

Each run is a process of its own, as a user starts it; its time is that from the call of ``diagnose.run`` on, the start
of the interpreter and imports aside. ``--plan`` compares plan and run without a budget, stage by stage.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

TASKS = (
    "logreg:breast-cancer",
    "softmax:digits",
    "mlp:wine",
    "mlp:digits",
    "cnn:digits",
    "gpt2-mini:pydoc-topics",
)
BUDGETS = "1m,3m,10m"
KEPT = 1.2
"""A budget is kept where the run takes at most so many of it."""
SCRIPT = """
import json, sys, time
import diagnose
from diagnose import pipeline
from diagnose.planning import plan
from diagnose.settings import Settings
model, data, budget, planned = json.loads(sys.argv[1])
rows = [vars(row) for row in plan.plan(Settings(budget=budget), model, data).rows] if planned else []
began = time.perf_counter()
found = diagnose.run(model, data, budget=budget)
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "stages": found.cost.stages, "plan": rows, "answer": found.verdict.answer,
    "speedup": found.training.speedup, "decided": found.training.decided_by, "orders": found.task.seeds,
    "cuts": found.settings.get("cuts"), "noise": found.noise.l1}))
"""


def ran(task: str, budget: str | None, planned: bool = False) -> dict[str, Any]:
    """One run in a process of its own."""
    model, data = task.split(":")
    words = [sys.executable, "-c", SCRIPT, json.dumps([model, data, budget, planned])]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def budget_rows(tasks: Sequence[str], budgets: Sequence[str]) -> Iterator[str]:
    """Lines of a Markdown table: what each budget took, and what it left."""
    from diagnose.settings import in_seconds

    yield "| task | budget | took | kept | answer | speed-up | orders | cut |"
    yield "|---|---|---|---|---|---|---|---|"
    for task in tasks:
        for budget in budgets:
            found = ran(task, budget)
            kept = "yes" if found["seconds"] <= KEPT * in_seconds(budget) else "no"
            speedup = "–" if found["speedup"] is None else f"{found['speedup']:.2f}"
            cuts = "; ".join(f"{name} {value}" for name, value in (found["cuts"] or {}).items()) or "nothing"
            cells = (task, budget, f"{found['seconds']:.0f} s", kept, found["answer"], speedup, found["orders"], cuts)
            yield f"| {' | '.join(map(str, cells))} |"


def plan_rows(tasks: Sequence[str]) -> Iterator[str]:
    """Lines of a Markdown table: seconds that the plan said, and that the run took."""
    yield "| task | stage | plan | at most | took |"
    yield "|---|---|---|---|---|"
    for task in tasks:
        found = ran(task, None, planned=True)
        rows = found["plan"]
        for row in rows:
            taken = found["stages"].get(row["stage"])
            if taken is not None and row["stage"] != "verdict":
                yield _line(task, row["stage"], row["seconds"], row["most_seconds"] or row["seconds"], taken)
        most = sum(row["most_seconds"] or row["seconds"] for row in rows)
        yield _line(task, "total", sum(row["seconds"] for row in rows), most, found["seconds"])


def _line(task: str, stage: str, *seconds: float) -> str:
    return f"| {task} | {stage} | {' | '.join(f'{value:.1f} s' for value in seconds)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__)
    parser.add_argument("--tasks", default=",".join(TASKS), help="MODEL:DATA, comma-separated")
    parser.add_argument("--budgets", default=BUDGETS, help="comma-separated")
    parser.add_argument("--plan", action="store_true", help="plan against run, without a budget")
    asked = parser.parse_args()
    tasks = asked.tasks.split(",")
    for line in plan_rows(tasks) if asked.plan else budget_rows(tasks, asked.budgets.split(",")):
        print(line, flush=True)


if __name__ == "__main__":
    main()
