"""Sentences about a diagnosis, as plain text without markup; console and page print the same ones."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reports.record.diagnosis import ADDING, NOISE_SIDES, PAIR, SMOOTHNESS_SIDES
from reports.words.numbers import bracket, certified, interval, measured, number, percent, ratio, ratio_interval

if TYPE_CHECKING:
    from estimators.results import Finding
    from reports.record.diagnosis import Diagnosis

_METHODS = {
    "sgd": "SGD",
    "sgd-momentum": "SGD with momentum",
    "sgd-clip": "SGD with clipping",
    "adagrad": "AdaGrad",
    "adagrad-norm": "AdaGrad-Norm",
    "adagrad-momentum": "AdaGrad with momentum",
    "rmsprop": "RMSProp",
    "adam": "Adam",
    "sign-sgd": "SignSGD",
}
TENS = 10
"""From so many times on a run's passes over the rows are told in whole numbers."""
_OPTION = re.compile(r"`(--[a-z-]+)")
NOT_ALIGNED = "no better aligned with the coordinates than after a random rotation"
FULL_BATCHES = "with full batches, in which nothing is left to chance"
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def printable(text: object) -> str:
    """A name on one line: control characters, direction marks and non-characters become "�"."""
    return _UNPRINTABLE.sub("\ufffd", str(text))


def method_name(method: str | None) -> str:
    """The usual spelling of a method's key; an unknown key as it is."""
    return "none" if method is None else _METHODS.get(method, printable(method))


def reason(part: Any, key: str) -> str:
    """Why ``key`` of a part is null."""
    return str(part.why.get(key) or "no reason was recorded")


def headline(diagnosis: Diagnosis) -> str:
    """The answer in one sentence, with speed-up and interval where they were measured; else what was measured."""
    answer, training, prediction = diagnosis.verdict.answer, diagnosis.training, diagnosis.prediction
    if answer is None:
        return "No answer yet: " + (
            "the run is not finished" if diagnosis.status != "finished" else reason(diagnosis.verdict, "answer")
        )
    speedup, pair, how = training.speedup, training.speedup_interval, ""
    if speedup is None and prediction.speedup is not None:
        speedup, pair, how = prediction.speedup, prediction.interval, "predicted, nothing was trained: "
    if speedup is None and training.steps is None:
        return f"{(diagnosis.verdict.theory or 'Nothing was measured').rstrip('.')}; nothing was trained"
    if speedup is None:
        return f"Undecided, as no speed-up was measured: {reason(training, 'speedup')}"
    if answer == "sgd":
        speedup, pair = 1 / speedup, None if pair is None else (1 / pair[1], 1 / pair[0])
    spread_ = f"interval {ratio_interval(pair)}" if how and pair is not None else _certainty(answer, pair)
    if answer == "adagrad":
        return f"AdaGrad should help: {how}{ratio(speedup)} fewer steps, {spread_}"
    if answer == "sgd":
        return f"SGD should do better: {how}{ratio(speedup)} fewer steps than AdaGrad, {spread_}"
    if answer == "no-difference":
        return f"AdaGrad makes no difference here: {how}a speed-up of {ratio(speedup)}, {spread_}"
    return f"Undecided: {how}AdaGrad's speed-up over SGD is {ratio(speedup)}, {spread_}"


def _certainty(answer: str, pair: Sequence[float] | None) -> str:
    """How well the speed-up is known; an answer without an interval is one of full batches."""
    return FULL_BATCHES if pair is None and answer != "undecided" else spread(pair)


def best_line(diagnosis: Diagnosis) -> str | None:
    """Which of all methods that ran is the best, by which loss and by how much; None where none is."""
    part = diagnosis.verdict
    if part.best_method is None:
        return None
    return best_of_all(part.best_method, part.best_by, part.best_tied or (), part.best_margin, diagnosis.training)


def best_of_all(best: str, by: str | None, tied: Sequence[str], margin: float | None, training: Any) -> str:
    """The words for the best method.

    Args:
        best: its key.
        by: "validation" or "training", the loss that it is best in.
        tied: the methods that are not told apart from it.
        margin: the share by which its loss lies below that of the better of SGD and AdaGrad.
        training: the part of the diagnosis.
    """
    methods = training.methods or {}
    key, loss = loss_of(by)
    count, name = len(methods), method_name(best)
    if count == 1:
        return f"{name} alone ran"
    below = "" if best in PAIR or not margin else f"{percent(margin)} below {better_of_the_pair(by, training)}'s"
    if tied:
        level = [method for method in methods if method == best or method in tied]
        line = f"By {loss} {_listed(level)} are not told apart"
        worst = max((methods[method].get(key) or 0.0) for method in level)
        # A method whose orders scatter may be level with the lowest and yet no better than those that are told apart.
        top = all((row.get(key) or math.inf) > worst for method, row in methods.items() if method not in level)
        line += f", and best of the {number(count)} methods" if top and len(level) < count else ""
        return f"{line}: {name}'s is {below}" if below else line
    ends = (methods.get(best) or {}).get("adagrad_speedup_interval")
    even = best not in PAIR and ends is not None and ends[0] <= 1 <= ends[1]
    start = f"AdaGrad and {name} are not told apart in steps; " if even else ""
    line = f"{start}{name} {_rank(by, count)}{'' if by == 'validation' else _where_lowest(methods)}"
    return f"{line}: its {loss} is {below}" if below else line


def _where_lowest(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """Said where a method ends lowest at another rate than its best, which the figure and the table show."""
    other = any(row.get("lowest_loss_rate") != row.get("learning_rate") for row in methods.values())
    return ", each at the rate where it ends lowest" if other else ""


def _listed(methods: Sequence[str]) -> str:
    names = [method_name(method) for method in methods]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _rank(by: str | None, count: int) -> str:
    if by == "validation":
        return "validates " + ("better than the other" if count == 2 else f"best of the {number(count)} methods")
    return "ends " + ("lower than the other" if count == 2 else f"lowest of the {number(count)} methods")


def loss_of(by: str | None) -> tuple[str, str]:
    """The loss that methods are held against each other by: its key in a method's entry, and its name."""
    return ("validation_loss", "held-out loss") if by == "validation" else ("lowest_loss", "lowest final loss")


def better_of_the_pair(by: str | None, training: Any) -> str:
    """SGD or AdaGrad, whichever of those that ended below the start has the lower loss."""
    key, _ = loss_of(by)
    ran = {name: (training.methods or {}).get(name) or {} for name in PAIR}
    start = training.initial_loss
    losses = {
        name: row[key]
        for name, row in ran.items()
        if row.get(key) is not None and (start is None or row["lowest_loss"] < start)
    }
    return method_name(min(losses, key=lambda name: losses[name])) if losses else "SGD or AdaGrad"


def unit(diagnosis: Diagnosis) -> str:
    """What one sample of the data is called."""
    return "rows" if diagnosis.settings.get("max_length") is None else "sequences"


def limits(diagnosis: Diagnosis) -> str | None:
    """What bounds the answer: samples, length, steps, how much of the data a run sees, batch orders and samples for
    curvature; None where unknown."""
    task, steps = diagnosis.task, diagnosis.training.steps
    length = diagnosis.settings.get("max_length")
    if task.samples is None:
        return None
    what = unit(diagnosis)
    part = task.rows is not None and task.samples < task.rows
    of = "" if task.rows is None else f"of {number(task.rows)} "
    taken = f"{number(task.samples)} {of}" if part or not of else f"all {number(task.samples)} "
    text = f"The answer is that of {taken}{what}"
    text += "" if length is None else f", each of at most {number(length)} tokens"
    if steps is not None:
        text += f"; of runs of {number(steps)} {_plural('step', steps)}"
        rows = task.training_rows
        # Where a batch holds all rows all seeds are the same run.
        whole = task.batch_size is not None and rows is not None and task.batch_size >= rows
        if rows is not None and whole:
            text += f" on all {number(rows)} {what} at once"
        elif task.batch_size is not None:
            text += f" in batches of {number(task.batch_size)}"
            text += "" if rows is None else f", which see {_seen(steps * task.batch_size, rows, what)}"
        if task.seeds is not None and not whole:
            text += f", with {number(task.seeds)} {_plural('order', task.seeds)} of the batches"
    curved = task.curvature_samples
    if curved is not None and curved < task.samples:
        text += f"; curvature was measured on {number(curved)} of these {what}"
    more = [*(["more data"] if part else []), *(["a longer race"] if steps is not None else [])]
    if length is not None:
        more.append("longer sequences")
    return f"{text}." + (f" {' or '.join(more).capitalize()} may give another answer." if more else "")


def _seen(taken: int, rows: int, what: str) -> str:
    """How much of so many rows a run sees that takes so many."""
    if taken < rows:
        return f"{number(taken)} of the {number(rows)} {what}"
    times, rest = divmod(taken, rows)
    often = number(times) if not rest else f"about {number(round(taken / rows, None if times >= TENS else 1), 2)}"
    return f"each of the {number(rows)} {what} {'once' if taken == rows else f'{often} times'}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _zone(density: float, sides: tuple[float, float]) -> int:
    """0 where a density speaks strongly for AdaGrad, 1 to some degree, 2 not at all."""
    return sum(density >= side for side in sides)


def noise_side(density: float) -> str:
    """How a noise density reads against its own neutral value."""
    said = (
        "concentrated in few coordinates, which strongly favours AdaGrad",
        "somewhat concentrated, which favours AdaGrad to some degree",
        "close to uniform, which favours neither",
    )
    return f"the noise is {said[_zone(density, NOISE_SIDES)]}"


def smoothness_side(density: float, rotated: float | None = None) -> str:
    """How R_L reads against its own neutral value, and against the rotated control where it ran."""
    if rotated is not None and density >= rotated:
        return f"curvature is {NOT_ALIGNED}"
    said = (
        "strongly aligned with the coordinates, which favours AdaGrad",
        "partly aligned with the coordinates, which favours AdaGrad to some degree",
        "not usably aligned with the coordinates, which favours neither",
    )
    return f"curvature is {said[_zone(density, SMOOTHNESS_SIDES)]}"


def noise_reading(density: float) -> str:
    """What a noise density says about the noise alone, with its number."""
    said = ("sits in few coordinates", "is somewhat concentrated", "is close to uniform")
    return f"noise {said[_zone(density, NOISE_SIDES)]} (φ {number(density, 2)})"


def smoothness_reading(part: Any) -> str:
    """What R_L says about curvature alone, with its number."""
    density, rotated = part.density, part.density_rotated
    how = ("strongly", "partly", "hardly")[_zone(density, SMOOTHNESS_SIDES)]
    turned = rotated is not None and density >= rotated
    said = NOT_ALIGNED if turned else f"{how} aligned with the coordinates"
    return f"curvature is {said} (R_L {certified(density, part.density_interval, 2)})"


def drawn(smoothness: Any) -> tuple[int, int] | None:
    """(samples, rows) where curvature was measured on a draw from more rows; None where it was on all, or unknown."""
    whole = smoothness.whole_data or {}
    samples, rows = whole.get("samples"), whole.get("rows")
    return (samples, rows) if samples is not None and rows is not None and samples < rows else None


def of_all_rows(smoothness: Any, unit: str = "rows") -> str:
    """Whose ‖L‖₁ the bracket is not: the interval for the whole data, or why there is none; empty without a draw."""
    part = drawn(smoothness)
    if part is None:
        return ""
    found = smoothness.whole_data.get("interval")
    if found is None:
        why = (smoothness.whole_data.get("why") or {}).get("interval", "no reason was recorded")
        return f"of all {number(part[1])} {unit} unknown: {why}"
    rare = unless_rare(smoothness.whole_data.get("rare_rows"))
    return f"of all {number(part[1])} {unit} 95% interval {interval(found)}" + (f", {rare}" if rare else "")


def scaled_sharpness(smoothness: Any) -> float | None:
    """d·λ, from the upper bound and R_L = ‖L‖₁/(d·λ)."""
    if smoothness.l1_upper is None or not smoothness.density:
        return None
    return float(smoothness.l1_upper / smoothness.density)


def unless_rare(share: float | None, what: str = "it") -> str:
    """What an interval of a draw rests on: no rows that are too rare for the draw; empty where it missed none."""
    return "" if not share else f"unless rows rarer than 1 in {number(int(1 / share))} carry {what}"


def _noise(part: Any) -> str | None:
    if part.density is None:
        return None
    line = f"density {measured(part.density, part.density_interval)}"
    if part.density_interval is None:
        return f"{line} on {number(part.samples)} samples" if part.samples else line
    low, high = part.density_interval
    rare = unless_rare(part.rare_rows, "the noise")
    return f"{line}, {rare}" if rare and low < high else line


def _smoothness(part: Any) -> str | None:
    if part.l1_lower is None or part.l1_upper is None:
        return None
    low, high = bracket(part.l1_lower, part.l1_upper)
    some = drawn(part)
    whose = "‖L‖₁" if some is None else f"‖L‖₁ of the {number(some[0])} samples drawn"
    line = f"{whose} {high}, exact" if part.l1_lower == part.l1_upper else f"{whose} between {low} and {high}"
    whole = scaled_sharpness(part)
    line += "" if whole is None else f", d·λ {number(whole)}"
    return line if some is None else f"{line}; {of_all_rows(part)}"


def _hessian_diagonal(part: Any) -> str | None:
    if part.abs_sum is None and part.abs_sum_interval is None:
        return None
    size = (
        f"within {interval(part.abs_sum_interval)} (95%)"
        if part.abs_sum is None
        else measured(part.abs_sum, part.abs_sum_interval)
    )
    return f"Σ|h| {size}; trace {measured(part.trace, part.trace_interval)}"


def _spectrum(part: Any) -> str | None:
    if part.largest is None:
        return None
    ends = (
        number(end) if above_rounding(end, part.rounding) else "0 (within rounding)"
        for end in (part.smallest, part.largest)
    )
    return f"eigenvalues from {' to '.join(ends)}"


def above_rounding(eigenvalue: float | None, rounding: float | None) -> bool:
    """Whether an eigenvalue is told from 0, as far as both are known; a zero Hessian has no rounding."""
    return not rounding or eigenvalue is None or abs(eigenvalue) > rounding


def _generalized_smoothness(part: Any) -> str | None:
    if part.l0_l1 is None:
        return None
    return (
        f"‖L₀‖₁ {number(part.l0_l1)}, L₁ helps on {percent(part.helps_fraction)} of the coordinates, "
        f"coverage {percent(part.coverage)}"
    )


def _training(part: Any) -> str | None:
    other, looked = _best_other(part), looks(part)
    if part.speedup is None:
        line = other and f"speed-up over SGD not measured: {reason(part, 'speedup')}; {other}"
    else:
        line = f"AdaGrad's speed-up over SGD {ratio(part.speedup)}, {spread(part.speedup_interval)}"
        line = line if other is None else f"{line}; {other}"
    if not line or not looked:
        return line
    return f"{looked}, {ending(part)}: {line}"


def looks(part: Any) -> str:
    """The orders of the batches that the race was looked at with: "orders 4 → 8"; empty where it was not recorded."""
    counts = [number(look["orders"]) for look in part.looks or ()]
    return f"orders {' → '.join(counts)}" if counts else ""


def ending(part: Any) -> str:
    """What ended the race, as a word before the time that it took."""
    return {"interval": "decided", "budget": "budget spent", "orders": "all orders run"}.get(part.decided_by, "ended")


def chosen_other(part: Any) -> str | None:
    """The best of the other methods, in words, where there were several to choose from and it is not SGD."""
    count = len(part.methods or {}) - 1
    if part.best_other in (None, "sgd") or count < 2 or part.best_other_speedup is None:
        return None
    return f"{method_name(part.best_other)}, the best of {number(count)} others"


def _best_other(part: Any) -> str | None:
    """AdaGrad's speed-up over the best of the other methods; None where there was none to choose."""
    if (chosen := chosen_other(part)) is None:
        return None
    ends = part.best_other_interval
    return f"over {chosen}, {ratio(part.best_other_speedup)}, {spread(ends)}"


def spread(ends: Sequence[float] | None) -> str:
    """How far a speed-up is known: its interval over orders of the batches, none, or that all ran alike."""
    if ends is None:
        return "no interval"
    return "the same in every order of the batches" if ends[0] == ends[1] else f"95% interval {ratio_interval(ends)}"


_STAGES: dict[str, tuple[str, Callable[[Any], str | None]]] = {
    "noise": ("density", _noise),
    "smoothness": ("l1_upper", _smoothness),
    "hessian_diagonal": ("abs_sum", _hessian_diagonal),
    "spectrum": ("largest", _spectrum),
    "generalized_smoothness": ("l0_l1", _generalized_smoothness),
    "training": ("speedup", _training),
}


def stage_line(stage: str, part: Any) -> str:
    """The finding of a stage in a few words; what was not measured, with its reason.

    Args:
        stage: noise, smoothness, hessian_diagonal, spectrum, generalized_smoothness or training.
        part: that part of the diagnosis.
    """
    key, line = _STAGES[stage]
    return line(part) or f"not measured: {reason(part, key)}"


def following(diagnosis: Diagnosis) -> str | None:
    """How to follow advice that names an option with which this folder does not simply go on; None without such."""
    said = " ".join([diagnosis.verdict.advice or "", *(finding.action for finding in diagnosis.warnings)])
    others = [option for option in dict.fromkeys(_OPTION.findall(said)) if option not in ADDING]
    if not others:
        return None
    listed = ", ".join(f"`{option}`" for option in others)
    return f"With {listed} it is another run: add `--fresh` to start this folder again, or name another with `--out`."


def warning_line(finding: Finding) -> str:
    """A warning as found (code) → meaning → action on one line."""
    return " → ".join(
        step
        for step in (
            f"{printable(finding.found)} ({printable(finding.code)})",
            printable(finding.meaning),
            printable(finding.action),
        )
        if step
    )
