"""On how many threads of the processor work is done: on one where its pieces are too short to share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from diagnose.training.plain_layers import plain
from estimators.task.problem import Problem

SHORT_PASS = 1 << 29
"""A pass of fewer multiplications is made of pieces of less than a millisecond or two."""
SHORT_MATRIX = 1024
"""Formed matrices up to this size are short work too."""


@contextlib.contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Inside, torch works on one thread where that is wanted."""
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def short(problem: Problem) -> bool:
    """Whether a pass over the samples, and what is done with a formed Hessian, is too short to share.

    Of a model of plain layers, which multiplies six times for each parameter and sample. On a busy machine threads wait
    for each other at every piece: with two processes on two cores, `logreg` on a4a took 170 s on two threads and 7 on
    one, `mlp` on digits 180 and 21.
    """
    short_matrix = not problem.forms_hessian or problem.d <= SHORT_MATRIX
    return plain(problem) and 6 * problem.d * problem.n <= SHORT_PASS and short_matrix
