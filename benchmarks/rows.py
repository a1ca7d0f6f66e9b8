"""Rows of each benchmark: what a method costs on a task and how wrong it is, or why it gives nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import torch

from benchmarks import noise, products
from benchmarks.clock import seconds
from benchmarks.estimates import Benchmark, Found, bound_in_words, off, root_mean_square
from benchmarks.table import Row
from benchmarks.tasks import Task

T = TypeVar("T")
WIDTH = 5
"""Vectors of a block: the first costs what it costs, the others share what can be shared."""


def working(calls: Mapping[str, Callable[[], T]]) -> tuple[dict[str, T], dict[str, str]]:
    """What each call returns, and why the others return nothing."""
    results, failures = {}, {}
    for name, call in calls.items():
        try:
            results[name] = call()
        except ImportError as error:
            failures[name] = f"not installed: {error.name}" if error.name else "not installed"
        except Exception as error:  # what another library says of a model that it cannot take
            first = (str(error).strip().splitlines() or [""])[0]
            failures[name] = f"fails: {type(error).__name__}: {first}"[:120]
    return results, failures


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
            yield Row(title, task.name, name, cost=one, further=(every - one) / (WIDTH - 1), error=error)


def estimate_rows(benchmark: Benchmark, task: Task, repeats: int) -> Iterator[Row]:
    """Every timed round is another seed; the one that warms up and the trial before it count for the error too."""
    runs: dict[str, list[Found]] = {name: [] for name in benchmark.methods}

    def run(name: str) -> Found:
        found = benchmark.methods[name](task, len(runs[name]))
        runs[name].append(found)
        return found

    results, failures = working({name: partial(run, name) for name in benchmark.methods})
    timed: dict[str, Callable[[], object]] = {"fb": task.forward_backward}
    timed |= {name: partial(run, name) for name in results}
    spent = seconds(timed, repeats)
    exact = benchmark.exact(task)
    for name, found in runs.items():
        if name in failures:
            yield Row(benchmark.title, task.name, name, note=failures[name])
            continue
        counts = [each.products for each in found if each.products is not None]
        yield Row(
            benchmark.title,
            task.name,
            name,
            cost=spent[name] / spent["fb"],
            products=sum(counts) / len(counts) if counts else None,
            error=root_mean_square([benchmark.error(each.value, exact) for each in found]),
            bound=bound_in_words(found, exact),
        )
