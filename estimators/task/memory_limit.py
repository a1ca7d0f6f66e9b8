"""How a memory limit is shared out: one place for what graphs keep and for vectors of the model's size.

``Problem.memory_bytes`` bounds what measuring takes beyond the model, its copy in the problem, the samples and Python.
Half of it at most goes to the graphs of products: as many chunks as fit are kept, the others are built anew for each
block; differentiating one takes about as much again as it keeps, so a chunk's graph counts twice. What graphs leave is
for vectors of d numbers, counted in the parameters' format; a float64 vector of a float32 model counts as two. Every
estimator does with the vectors that there are: fewer columns, Lanczos without its basis, sums in float32, or says
what would do.

Without a limit all graphs are kept, and vectors take 4 GiB.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from estimators.errors import InputError
from estimators.task.function import Function
from estimators.task.graphs import kept_bytes

VECTOR_BYTES = 4 << 30
"""For vectors, where no limit is set."""
GRAPHS = 1 / 2
"""Largest share of a limit for graphs."""
FEWEST = 20
"""Vectors with which everything can be measured in some way: one column of the bracket, or the sums of the diagonal,
beside one product, whose own work takes some six."""
WIDE = 40
"""Vectors with which sums over probes are taken in float64."""
COPIED = 40
"""Vectors that checks take which work on a copy in float64, of as many bytes as two."""
STEP = 12
"""Vectors that one step of Lanczos takes beside its basis, its product included."""
COLUMN, BESIDE = 6, 12
"""Vectors for each column of alternating sweeps, and beside them: norms, a scaling, the work of a product."""
BLOCK = 4
"""Vectors for each column of a block of products: itself, its image and the image's sum in float64."""
POINT, POINT_FITTED = 3, 17
"""Vectors that generalized smoothness holds for each point: gradient and bound; and with what fits make of them."""
LIMIT = "memory limit"
"""Where the errors of this module are."""
FORMED_BYTES = 256 << 20
"""For formed Hessians of other points, each of which another measurement may want again."""
FORMED = 6
"""Matrices of d x d numbers in float64 that a formed Hessian takes, its eigenvalues and its bracket included."""


def graph_sizes(problem: Function) -> tuple[int, ...]:
    """Bytes that the graphs of one, two and three samples keep, as far as there are so many."""
    with problem.measuring():
        most = min(3, problem.n)
        return tuple(kept_bytes(problem, problem.trimmed(problem.take(slice(0, m + 1)))) for m in range(most))


def graph_bytes(problem: Function, samples: int) -> int:
    """What the graph of so many samples keeps: what three take, and for each further one what the third added.

    A single sample says little about more: without others its tensors are often views where several are copied.
    """
    sizes = problem.graph_sizes or graph_sizes(problem)
    if samples <= len(sizes):
        return sizes[samples - 1]
    return sizes[-1] + (samples - len(sizes)) * (max(0, sizes[-1] - sizes[-2]) if len(sizes) > 1 else sizes[-1])


def gradient_bytes(problem: Function, samples: int) -> int:
    """What a gradient of so many samples takes at most, those of an evaluation beside it: the larger of two graphs, and
    as much again to differentiate it."""
    return 2 * graph_bytes(problem, min(max(samples, problem.chunk), problem.n))


def fitting_chunk(problem: Function, wanted: int) -> int:
    """How many samples go through the model at once: no more than wanted, nor than the limit allows.

    Raises:
        InputError: one sample and the fewest vectors take more than the limit.
    """
    if problem.memory_bytes is None:
        return wanted
    formed = FORMED * 8 * problem.d**2 if problem.forms_hessian else 0
    work = 2 * graph_bytes(problem, 1)
    needed = max(work / GRAPHS, work + max(FEWEST * _vector(problem), formed))
    if problem.memory_bytes < needed:
        raise InputError(
            f"{size(problem.memory_bytes)} are too little to measure {problem.d:,} parameters",
            LIMIT,
            f"{_allow(needed)}; a shorter `--max-length` takes less",
        )
    fits = [m for m in _halvings(wanted) if 2 * graph_bytes(problem, m) <= GRAPHS * problem.memory_bytes]
    return fits[0] if fits else 1


def _halvings(most: int) -> list[int]:
    found = [most]
    while found[-1] > 1:
        found.append((found[-1] + 1) // 2)
    return found


def kept_graphs(problem: Function) -> int:
    """How many graphs of chunks are kept; all or, since one place is for those built anew, fewer than fit."""
    chunks = -(-problem.n // problem.chunk)
    if problem.memory_bytes is None:
        return chunks
    one = max(graph_bytes(problem, min(problem.chunk, problem.n)), 1)
    fit = int(GRAPHS * problem.memory_bytes / one) - 1  # a place for the work on one of them
    return chunks if fit >= chunks else max(0, fit - 1)


def keeps_all(problem: Function) -> bool:
    return kept_graphs(problem) * problem.chunk >= problem.n


def vectors(problem: Function) -> int:
    """How many vectors of d numbers, in the parameters' format, may be held beside the graphs."""
    if problem.memory_bytes is None:
        return max(VECTOR_BYTES // _vector(problem), FEWEST)
    return max(int((problem.memory_bytes - _for_graphs(problem, problem.memory_bytes)) / _vector(problem)), FEWEST)


def room_for_double(problem: Function) -> bool:
    """Whether a check may work on a copy in float64; not under a limit as long as nothing is known of the graphs."""
    known = problem.memory_bytes is None or bool(problem.graph_sizes)
    return known and vectors(problem) >= COPIED


def columns(problem: Function, most: int, each: int, beside: int) -> int:
    """How many columns of ``each`` vectors fit beside others: no more than ``most``, one at least."""
    return max(1, min(most, (vectors(problem) - beside) // each))


def sweeping(problems: Sequence[Function], most: int) -> int:
    """Columns of the sweeps for each of several points, whose columns are in memory together.

    Raises:
        InputError: one column for each takes more than the limit of one of them.
    """
    least = COLUMN * len(problems) + BESIDE
    for problem in problems:
        if problem.memory_bytes is not None and vectors(problem) < least:
            raise InputError(
                f"{size(problem.memory_bytes)} are too little for {len(problems)} points together",
                LIMIT,
                f"{_allow_vectors(problem, least)}, or give fewer points",
            )
    return min(columns(problem, most, COLUMN * len(problems), BESIDE) for problem in problems)


def too_many_points(problem: Function, count: int) -> str | None:
    """Why pairs cannot be fitted to so many points within the limit, with what would do; None where they can.

    Their gradients and bounds are held together, with the fits' own arrays in float64.
    """
    least = POINT_FITTED * count + FEWEST
    if problem.memory_bytes is None or problem.forms_hessian or vectors(problem) >= least:
        return None
    return f"{size(problem.memory_bytes)} are too little for fits to {count} points: {_allow_vectors(problem, least)}"


def holds_formed(problem: Function, count: int) -> bool:
    """Whether there is room for the formed Hessians of so many points at once, with what is made of them."""
    if problem.memory_bytes is None:
        return True
    room = problem.memory_bytes - _for_graphs(problem, problem.memory_bytes)
    return count * FORMED * 8 * problem.d**2 <= room


def formed_points(problem: Function) -> int:
    """How many points may keep the Hessian that was formed there while one is measured at another point."""
    one, room = 8 * problem.d**2, float(FORMED_BYTES)
    if problem.memory_bytes is not None:
        room = min(room, problem.memory_bytes - _for_graphs(problem, problem.memory_bytes) - FORMED * one)
    return max(0, int(room // one))


def _for_graphs(problem: Function, limit: int) -> float:
    one = graph_bytes(problem, min(problem.chunk, problem.n))
    return min(GRAPHS * limit, (kept_graphs(problem) + 2) * one)


def holds_basis(problem: Function, steps: int) -> bool:
    """Whether a Lanczos run of so many steps may hold its basis, beside what a step takes."""
    return vectors(problem) >= steps + STEP


def sums_dtype(problem: Function) -> torch.dtype:
    """The format of sums over probes: float64 where there is room."""
    return torch.float64 if vectors(problem) >= WIDE or problem.precision.itemsize < 4 else problem.dtype


def _vector(problem: Function) -> int:
    return problem.d * max(problem.dtype.itemsize, 4)


def _allow_vectors(problem: Function, count: int) -> str:
    """A limit of which graphs leave room for so many vectors, whatever they take."""
    return _allow(count * _vector(problem) / (1 - GRAPHS))


def _allow(needed: float) -> str:
    return f"allow {size(needed)} or more with `--memory` (in Python `memory_bytes`)"


def size(number: float) -> str:
    """Bytes in the largest unit that leaves 1 or more, rounded up to a tenth, as `--memory` takes it."""
    for unit, letter in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if number >= unit:
            return f"{-(-10 * number // unit) / 10:g}{letter}"
    return f"{int(-(-number // 1))}"
