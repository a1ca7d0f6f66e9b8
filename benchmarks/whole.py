"""What the whole command takes, stage by stage.

    python -m benchmarks whole [--tasks logreg:breast-cancer,…] [--repeats 3] [--option=--no-training …]

Each run is a process of its own, as a user starts it; medians over the repeats. Seconds of a stage stand beside the
forward+backward passes over the sample set that would take as long (measured in another process, the fastest of a few):
that is what compares across machines. What no stage has is the start: the interpreter, imports, opening, the page.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NAME = "whole"
TASKS: Mapping[str, str] = {
    "logreg:breast-cancer": "",
    "logreg:a4a": "",
    "mlp:digits": "",
    "gpt2-mini:alpaca": "",
    "shakespeare-gpt2:tinyshakespeare.txt": "DIAGNOSE_MODELS",
}
"""MODEL:DATA, and the variable that names the folder of the model where it is no built-in."""
START = "start and page"
PASS = """
import json, sys
from benchmarks.clock import seconds
from diagnose.inputs import open_task
from diagnose.settings import Settings
from estimators import Problem
opened, _ = open_task(*json.loads(sys.argv[1]), Settings())
problem = Problem(opened.model, opened.samples, opened.loss)
print(json.dumps(seconds({"pass": problem.loss_and_gradient}, 3)["pass"]))
"""


@dataclass(frozen=True)
class Timed:
    """One command: seconds of the whole and of each stage, medians."""

    seconds: float
    stages: Mapping[str, float]

    @property
    def rest(self) -> float:
        """What no stage has."""
        return self.seconds - sum(self.stages.values())


def places(task: str) -> tuple[str, str]:
    """Model and data as the command takes them."""
    model, data = task.split(":")
    if variable := TASKS.get(task):
        model = str(Path(os.environ[variable]) / model)
    if data.endswith(".txt"):
        data = str(Path(os.environ["DIAGNOSE_DATA"]) / data)
    return model, data


def timed(task: str, repeats: int, options: Sequence[str] = ()) -> Timed:
    """The command with its defaults and the options, ``repeats`` times anew."""
    model, data = places(task)
    wholes, stages = list[float](), list[dict[str, float]]()
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, "-m", "diagnose", model, "--data", data, "--quiet", "--out", f"{folder}/run"]
            began = time.perf_counter()
            subprocess.run([*words, *options], check=True, stdout=subprocess.DEVNULL)
            wholes.append(time.perf_counter() - began)
            stages.append(json.loads(Path(folder, "run", "result.json").read_text(encoding="utf-8"))["cost"]["stages"])
    by_stage = {stage: statistics.median(run[stage] for run in stages) for stage in stages[0]}
    return Timed(statistics.median(wholes), by_stage)


def pass_seconds(task: str) -> float:
    """Seconds of a forward+backward pass over the sample set."""
    words = [sys.executable, "-c", PASS, json.dumps(places(task))]
    return float(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def lines(task: str, found: Timed, one: float) -> Iterator[str]:
    """The rows of a task in the table."""
    for stage, seconds in {START: found.rest, **found.stages}.items():
        yield f"| {task} | {stage} | {seconds:.1f} s | {seconds / one:,.0f} |"
    yield f"| {task} | **all** | **{found.seconds:.1f} s** | {found.seconds / one:,.0f} |"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {NAME}", description=__doc__)
    parser.add_argument("--tasks", default=",".join(TASKS), help="MODEL:DATA, comma-separated")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--option", action="append", default=[], help="of the command; may be given again and again")
    asked = parser.parse_args(arguments)
    print("| task | stage | time | passes |\n|---|---|---|---|", flush=True)
    for task in asked.tasks.split(","):
        for line in lines(task, timed(task, asked.repeats, asked.option), pass_seconds(task)):
            print(line, flush=True)
