"""The stage of the Hessian diagonal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import estimators
from diagnose.stages.bench import Bench, Update, stream, tensors
from estimators.results import HessianDiagonal, Smoothness
from reports.record.diagnosis import Diagnosis, absent


def hessian_diagonal(bench: Bench, known: Diagnosis) -> Update:
    if (reason := bench.without_curvature("hessian_diagonal")) is not None:
        bench.kept.clear()
        left_out: dict[str, Any] = {"hessian_diagonal": absent(HessianDiagonal, reason)}
        return Update(left_out | _with_sum(known.smoothness, None, reason))
    # Absent where a number of it was not finite: then nothing cuts the bounds of the diagonal.
    vector = known.vectors.get("smoothness")
    bound = None if vector is None else replace(known.smoothness, vectors=tensors(vector, bench.problem))
    runs = bench.lanczos_run()
    part = estimators.hessian_diagonal(
        bench.curvature,
        probes=bench.resolved.probes,
        smoothness=bound,
        krylov=None if runs is None else runs.whole,
        shrink=True,
        seed=stream(bench.resolved.seed, "diagonal"),
        progress=bench.progress,
    )
    bench.kept.clear()
    parts: dict[str, Any] = {"hessian_diagonal": part}
    parts |= _with_sum(known.smoothness, part.abs_sum, part.why.get("abs_sum", ""))
    kinds = {
        "hessian_diagonal": part.vectors,
        "hessian_diagonal_lower": part.lower,
        "hessian_diagonal_upper": part.upper,
    }
    return Update(parts, kinds, part.warnings, amount=f"{part.probes} products" if part.probes else "exact")


def _with_sum(part: Smoothness, total: float | None, reason: str) -> dict[str, Smoothness]:
    """The smoothness with the sum of the diagonal, or why there is none; empty where it has that, or was left out."""
    if part.points is None or part.diagonal_sum is not None:
        return {}
    why = {key: text for key, text in part.why.items() if key != "diagonal_sum"}
    why |= {"diagonal_sum": reason} if total is None else {}
    return {"smoothness": replace(part, diagonal_sum=total, why=why)}
