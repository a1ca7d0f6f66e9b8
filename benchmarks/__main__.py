"""``python -m benchmarks [noise] … [--tasks gpt2,digits] [--repeats N] [--threads N]``, and ``orders``, ``stacks`` and
``whole`` by themselves."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial

import torch

from benchmarks import diagonal, eigenvalues, one_norm, orders, smoothness, stacks, table, trace, whole
from benchmarks.estimates import Benchmark
from benchmarks.rows import estimate_rows, noise_rows, product_rows
from benchmarks.table import Row
from benchmarks.tasks import LARGE, TASKS, Task

Rows = Callable[[Task, int], Iterator[Row]]


def _estimated(benchmark: Benchmark) -> tuple[Sequence[str], Rows]:
    return benchmark.tasks, partial(estimate_rows, benchmark)


BENCHMARKS: Mapping[str, tuple[Sequence[str], Rows]] = {
    "noise": (LARGE, noise_rows),
    "products": (LARGE, product_rows),
    "diagonal": _estimated(diagonal.BENCHMARK),
    "trace": _estimated(trace.BENCHMARK),
    "largest": _estimated(eigenvalues.LARGEST),
    "density": _estimated(eigenvalues.DENSITY),
    "smoothness": _estimated(smoothness.BENCHMARK),
    "smoothness-small": _estimated(smoothness.SMALL),
    "one-norm": _estimated(one_norm.BENCHMARK),
}
"""The names of the tasks of each, and what makes their rows."""


def main() -> None:
    for study in (orders, stacks, whole):
        if sys.argv[1:2] == [study.NAME]:
            study.main(sys.argv[2:])
            return
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=f"{', '.join(BENCHMARKS)}; default all")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated; default all")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, each with its seed; the fastest counts")
    parser.add_argument("--threads", type=int, default=None, help="of torch; default its own")
    parser.add_argument("--name", default="cpu", help="of the files in benchmarks/results")
    asked = parser.parse_args()
    names, tasks = asked.benchmarks or list(BENCHMARKS), asked.tasks.split(",")
    unknown = [name for name in names if name not in BENCHMARKS] + [name for name in tasks if name not in TASKS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    if asked.threads:
        torch.set_num_threads(asked.threads)
    made = cache(lambda name: TASKS[name]())
    rows: list[Row] = []
    for name in names:
        own, measured = BENCHMARKS[name]
        for task in (each for each in own if each in tasks):
            rows += measured(made(task), asked.repeats)
    print(table.markdown(rows))
    print(f"written: {table.write(rows, asked.name)}")


if __name__ == "__main__":
    main()
