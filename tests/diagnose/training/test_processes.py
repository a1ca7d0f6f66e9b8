"""Runs that train alone, side by side in processes: the same bits, the same errors, and nothing that is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnose.training import race
from diagnose.training.processes import VECTORS, processes, side_by_side
from diagnose.training.runs import Contender, Leg, MemoryStore, Race, RaceSettings
from estimators.errors import InputError
from estimators.task.memory_limit import gradient_bytes
from estimators.task.problem import Problem
from tests.diagnose.training.tasks import settings
from tests.markers import marked

HOW: dict[str, Any] = {"steps": 8, "evaluations": 4, "rows": 40, "every_rate": False, "seeds": 2}

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or torch.accelerator.is_available() or len(os.sched_getaffinity(0)) < 2,
    reason="processes are forked on Linux without an accelerator, where there are two cores",
)


def convolution(size: int = 6, memory: int | None = None) -> Problem:
    """A small network that is not stacked, with a loss that no pickle holds."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 1, size, size, generator=generator), torch.randint(0, 3, (40,), generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * (size - 2) ** 2, 3))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target, reduction="none")

    return Problem(model, (x, y), loss, memory_bytes=memory)


def raced(threads: int, store: MemoryStore | None = None, **changes: Any) -> tuple[Race, float]:
    """A race where torch may use so many threads, and its passes."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        problem = convolution()
        ended = race(problem, settings(**HOW | changes), MemoryStore() if store is None else store)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    return ended, problem.passes.total


class Counting(MemoryStore):
    """A store that notes in which order legs came, and may end the race."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        self.most = most

    def put(self, leg: Leg) -> None:
        if len(self.legs) == self.most:
            raise KeyboardInterrupt
        super().put(Leg.from_json(leg.to_json()))


def test_one_process_and_two_give_the_same_bits_and_passes() -> None:
    assert raced(1) == raced(2)


def test_an_interrupted_race_goes_on_to_the_same_bits_and_leaves_no_process() -> None:
    store = Counting(3)
    with pytest.raises(KeyboardInterrupt):
        raced(2, store)
    assert not multiprocessing.active_children()
    assert len(store.legs) == 3
    store.most = 1000
    assert raced(2, store)[0] == raced(1)[0]


def test_what_ends_the_race_in_its_progress_ends_the_processes_at_once() -> None:
    class OutOfTime(Exception):
        pass

    def told(stage: str, done: float, total: float) -> None:
        assert 0 <= done <= total
        if done > 3:
            raise OutOfTime

    torch.set_num_threads(2)
    try:
        with pytest.raises(OutOfTime):
            race(convolution(), settings(**HOW), MemoryStore(), told)
    finally:
        torch.set_num_threads(1)
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("two_threads")
def test_progress_grows_and_ends_at_its_total() -> None:
    told: list[tuple[float, float]] = []
    race(convolution(), settings(**HOW), MemoryStore(), lambda _, done, total: told.append((done, total)))
    assert all(done <= total for done, total in told)
    assert told[-1][0] == pytest.approx(told[-1][1])
    assert any(done % told[0][1] for done, _ in told)


@pytest.mark.usefixtures("two_threads")
def test_what_a_run_raises_arrives_as_itself() -> None:
    def failing(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
        if lr != 1.0:  # the first look at it takes one step at 1
            raise ArithmeticError("no such rate")
        return torch.optim.SGD(parameters, lr=lr)

    how = settings(**HOW, optimizers=("sgd", "failing"), own={"failing": failing})
    with pytest.raises(InputError, match="no such rate") as told:
        race(convolution(), how, MemoryStore())
    assert told.value.where == "optimizer failing"
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("two_threads")
def test_a_process_that_is_killed_costs_its_run_alone() -> None:
    here = os.getpid()

    def killed(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.optim.SGD(parameters, lr=lr)

    how = settings(**HOW, optimizers=("sgd", "killed"), own={"killed": killed}, learning_rates=(0.1,))
    ended = race(convolution(), how, MemoryStore())
    assert ended.at("killed", 0.1)[0].losses == pytest.approx(ended.at("sgd", 0.1)[0].losses)


def test_how_many_run_at_once_follows_threads_and_memory() -> None:
    how: RaceSettings = settings(**HOW, batch_size=39)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert processes(convolution(), how) == 1
        torch.set_num_threads(2)
        assert processes(convolution(), how) == 2
        large = convolution(size=32)
        one = VECTORS * 4 * large.d + gradient_bytes(large, 39)
        assert processes(convolution(size=32, memory=2 * one), how) == 2
        assert processes(convolution(size=32, memory=int(1.8 * one)), how) == 1
    finally:
        torch.set_num_threads(before)


def test_runs_begin_in_their_order_and_each_ends_once() -> None:
    runs, ended = [Contender("sgd", 0.1, seed) for seed in range(5)], dict[Contender, Any]()

    def work(run: Contender, tick: Any) -> int:
        if run.seed == 3:
            raise MemoryError
        tick(0.5)
        return run.seed

    side_by_side(work, runs, 2, lambda run, share: None, ended.__setitem__)
    assert ended == {run: None if run.seed == 3 else run.seed for run in runs}


SCRIPT = """
import signal, sys, time, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits one that ignores it
from pathlib import Path
from diagnose.training.runs import Contender
from diagnose.training.processes import side_by_side

def work(run, tick):
    Path(sys.argv[1], str(run.seed)).write_text(str(__import__("os").getpid()))
    while True:
        torch.randn(300, 300) @ torch.randn(300, 300)

side_by_side(work, [Contender("sgd", 0.1, seed) for seed in range(3)], 2, lambda *_: None, lambda *_: None)
"""


def running(process: int) -> bool:
    """Whether it is there, and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("how", marked("sweep", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], [signal.SIGKILL]))
def test_no_process_outlives_the_race(how: signal.Signals, tmp_path: Path) -> None:
    begun = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stderr=subprocess.PIPE)
    try:
        until(lambda: all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "01"), 120)
        workers = [int((tmp_path / name).read_text()) for name in "01"]
        begun.send_signal(how)
        begun.wait(30)
        until(lambda: not any(map(running, workers)), 10)
    finally:
        begun.kill()
        begun.communicate()


def until(true: Any, seconds: float) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
