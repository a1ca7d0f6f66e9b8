"""Runs that train alone, several at once: each in a process of its own, a copy (fork) of this one.

A forked process needs nothing but the run's name: model, data and loss are there, closures and modules without a file
too, and none of them is pickled. It starts in a tenth of the time of one that imports torch (docs). It works on one
thread, since those of OpenMP do not outlive a fork; so the numbers of a run do not depend on how many run at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch

from diagnose.training.runs import Contender, RaceSettings
from estimators.task.memory_limit import gradient_bytes
from estimators.task.problem import Problem

Made = TypeVar("Made")
Work = Callable[[Contender, Callable[[float], None]], Made]
"""Makes a run; tells the share of its steps, in 0..1, that is done."""
_Running = dict[Connection, tuple[Contender, BaseProcess]]
"""Each process with what it makes, by the connection to it."""

VECTORS = 12
"""Vectors of d numbers that a run holds at most: iterate, gradient, state and what a step makes of them."""
MACHINE = 1 / 2
"""Share of the machine's memory for all runs, where no limit is set."""
PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that this process gets when its parent ends."""


def processes(trained: Problem, settings: RaceSettings) -> int:
    """How many runs train at once, each on one thread: as many as torch has threads, the machine cores for them and
    memory room; 1 where fewer than half of these would be used, on an accelerator and where a process cannot be forked.

    It follows machine, model and settings alone.
    """
    cores = min(torch.get_num_threads(), _cores())
    if cores < 2 or not _forks(trained):
        return 1
    room = trained.memory_bytes
    if room is None:
        room = int(MACHINE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    held = VECTORS * trained.d * max(trained.dtype.itemsize, 4) + gradient_bytes(trained, settings.batch_size)
    fit = min(cores, room // max(held, 1))
    return fit if 2 * fit > cores else 1


def _cores() -> int:
    """Cores that this process may use, by affinity and by the quota of a container."""
    from joblib import cpu_count

    return int(cpu_count())


def _forks(problem: Problem) -> bool:
    """Whether gradients can be taken in a fork of this process.

    Where there is an accelerator the threads of autograd are there, and do not outlive it. A process of a pool may have
    no children.
    """
    return (
        sys.platform == "linux"
        and problem.device.type == "cpu"
        and not torch.accelerator.is_available()
        and not multiprocessing.current_process().daemon
    )


def side_by_side(
    work: Work[Made],
    runs: Sequence[Contender],
    most: int,
    tick: Callable[[Contender, float], None],
    ended: Callable[[Contender, Made | None], None],
) -> None:
    """Make the runs, ``most`` at once, in processes that end with this one, whatever ends it.

    Args:
        work: makes one.
        runs: in the order in which they begin.
        most: at once.
        tick: told the share of a run that is done.
        ended: told what a run gave when it ends, None where its process failed: memory gave out, or it raised.
    """
    waiting, running = list(runs), _Running()
    try:
        while waiting or running:
            while waiting and len(running) < most:
                _start(work, waiting.pop(0), running)
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                run, process = running[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    message = None
                if isinstance(message, float):
                    tick(run, message)
                    continue
                del running[connection]
                if message is not None and waiting:
                    running[connection] = waiting.pop(0), process
                    _hand(connection, running[connection][0])
                else:
                    _end(connection, process)
                ended(run, message)
    finally:
        for connection, (_, process) in running.items():
            _end(connection, process)


def _start(work: Work[Made], run: Contender, running: _Running) -> None:
    """A process that makes the run; where none can be had, one that gives nothing."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_in_process, args=(work, there, os.getpid()), daemon=True)
    running[here] = run, process
    with there, _unheard(), warnings.catch_warnings(), contextlib.suppress(OSError):
        # Python warns of forks beside other threads, since a lock may stay held: a run takes none that they hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    _hand(here, run)


def _hand(connection: Connection, run: Contender) -> None:
    """Tell a process what to make; one that has ended is told by what it does not give."""
    with contextlib.suppress(OSError):
        connection.send(run)


def _end(connection: Connection, process: BaseProcess) -> None:
    """Nothing more is wanted of the process."""
    connection.close()
    if process.pid is not None:
        process.kill()
        process.join()


def _in_process(work: Work[Made], told: Connection, parent: int) -> None:
    """What a process does, until it fails or is ended. What it raises the parent tells, which makes the run again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the parent too, which ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    gc.freeze()  # what is there stays where it is, in memory that both processes share
    warnings.simplefilter("ignore")  # the parent has said what there is to say of this model
    torch.set_num_threads(1)
    with contextlib.suppress(Exception):
        while True:
            told.send(work(told.recv(), lambda share: told.send(float(share))))


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Inside, signals that end a run wait: a new process shall not take them for its own."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
