"""The best method of all that ran: by held-out loss where there is one, and never by more than was told apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from estimators.results import Interval
from reports.record.diagnosis import PAIR, Answer, Training
from reports.words.sentences import loss_of

Entry = Mapping[str, Any]
Loss = Literal["validation", "training"]


@dataclass(frozen=True)
class Best:
    """The method, the loss that it is best in, the others that are not told apart, and the margin.

    ``margin`` is the share by which its loss lies below that of the better of sgd and adagrad: 0 for one of them, None
    where neither can be compared.
    """

    method: str
    by: Loss
    tied: tuple[str, ...]
    margin: float | None


def best_of_all(training: Training, answer: Answer, deterministic: bool = False) -> Best | None:
    """The method of the lowest loss among those that ended below the start; None where none did.

    Two methods are told apart where the intervals of their losses over the orders do not overlap and rounding does not
    explain the difference. Where sgd or adagrad is not told apart from the lowest, it is the best: the one that the
    answer names, else the lower one.

    Args:
        training: the race.
        answer: of the verdict.
        deterministic: all orders are the same run, so that a loss without an interval is exact.
    """
    ran = {name: entry for name, entry in (training.methods or {}).items() if _descended(entry, training.initial_loss)}
    valid = {name: entry for name, entry in ran.items() if entry.get("validation_loss") is not None}
    by: Loss = "validation" if valid else "training"
    ran, (key, _) = valid or ran, loss_of(by)
    if not ran:
        return None
    losses = {name: float(entry[key]) for name, entry in ran.items()}
    lowest = min(losses, key=lambda name: losses[name])
    level = [name for name in ran if name == lowest or not _apart(ran[lowest], ran[name], key, deterministic)]
    pair = sorted((name for name in PAIR if name in level), key=lambda name: (name != answer, losses[name]))
    method = pair[0] if pair else lowest
    return Best(method, by, tuple(name for name in level if name != method), _margin(method, losses))


def _descended(entry: Entry, initial: float | None) -> bool:
    final = entry.get("lowest_loss")
    return final is not None and initial is not None and final + _resolution(entry) < initial


def _apart(lower: Entry, other: Entry, key: str, deterministic: bool) -> bool:
    told = max(_resolution(lower), _resolution(other))
    first, second = (_ends(entry, key, deterministic) for entry in (lower, other))
    return first is not None and second is not None and first[1] < second[0] and other[key] - lower[key] > told


def _ends(entry: Entry, key: str, deterministic: bool) -> Interval | None:
    ends: Interval | None = entry.get(f"{key}_interval")
    return (entry[key], entry[key]) if ends is None and deterministic else ends


def _resolution(entry: Entry) -> float:
    """Losses closer than this to the method's are equal to it."""
    return float(entry.get("loss_resolution") or 0.0)


def _margin(method: str, losses: Mapping[str, float]) -> float | None:
    better = min((losses[name] for name in PAIR if name in losses), default=None)
    if method in PAIR:
        return 0.0
    return None if better is None or better <= 0 else (better - losses[method]) / better
