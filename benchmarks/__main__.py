"""``python -m benchmarks [noise] [products] [--tasks gpt2,mlp,resnet20] [--repeats N] [--threads N]``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks import noise, products, table
from benchmarks.clock import seconds
from benchmarks.table import Row
from benchmarks.tasks import TASKS, Task

WIDTH = 5
"""Vectors of a block: the first costs what it costs, the others share what can be shared."""


def working(calls: Mapping[str, Callable[[], Tensor]]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What each call returns, and why the others return nothing."""
    results, failures = {}, {}
    for name, call in calls.items():
        try:
            results[name] = call()
        except ImportError:
            failures[name] = "not installed"
        except Exception as error:  # what another library says of a model that it cannot take
            first = (str(error).strip().splitlines() or [""])[0]
            failures[name] = f"fails: {type(error).__name__}: {first}"[:120]
    return results, failures


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def noise_rows(task: Task, repeats: int) -> Iterator[Row]:
    calls = {name: partial(method, task) for name, method in noise.METHODS.items()}
    results, failures = working(calls)
    timed: dict[str, Callable[[], object]] = {"fb": task.forward_backward, **{name: calls[name] for name in results}}
    spent = seconds(timed, repeats)
    for name in calls:
        if name in failures:
            yield Row("Sum of squares of per-sample gradients", task.name, name, note=failures[name])
        else:
            error = off(results[name], results["loop"])
            cost = spent[name] / spent["fb"]
            yield Row("Sum of squares of per-sample gradients", task.name, name, cost, error=error)


def product_rows(task: Task, repeats: int) -> Iterator[Row]:
    title = "Products with the Hessian"
    block = torch.randn(task.problem.d, WIDTH, generator=torch.Generator().manual_seed(1))
    results, failures = working({name: partial(method, task, block) for name, method in products.METHODS.items()})
    timed: dict[str, Callable[[], object]] = {"fb": task.forward_backward}
    for name in results:
        timed[f"{name} one"] = partial(products.METHODS[name], task, block[:, :1])
        timed[f"{name} all"] = partial(products.METHODS[name], task, block)
    spent = seconds(timed, repeats)
    for name in products.METHODS:
        if name in failures:
            yield Row(title, task.name, name, note=failures[name])
        else:
            one, every = spent[f"{name} one"] / spent["fb"], spent[f"{name} all"] / spent["fb"]
            error = off(results[name], results["double backward"])
            yield Row(title, task.name, name, one, (every - one) / (WIDTH - 1), error)


BENCHMARKS: Mapping[str, Callable[[Task, int], Iterator[Row]]] = {"noise": noise_rows, "products": product_rows}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=f"{', '.join(BENCHMARKS)}; default all")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated; default all")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the fastest counts")
    parser.add_argument("--threads", type=int, default=None, help="of torch; default its own")
    parser.add_argument("--name", default="cpu", help="of the files in benchmarks/results")
    asked = parser.parse_args()
    unknown = [name for name in asked.benchmarks if name not in BENCHMARKS]
    unknown += [name for name in asked.tasks.split(",") if name not in TASKS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    if asked.threads:
        torch.set_num_threads(asked.threads)
    rows: list[Row] = []
    for task_name in asked.tasks.split(","):
        task = TASKS[task_name]()
        for name in asked.benchmarks or BENCHMARKS:
            rows += BENCHMARKS[name](task, asked.repeats)
    order = {row.benchmark: None for row in rows}
    rows.sort(key=lambda row: list(order).index(row.benchmark))
    print(table.markdown(rows))
    print(f"written: {table.write(rows, asked.name)}")


if __name__ == "__main__":
    main()
