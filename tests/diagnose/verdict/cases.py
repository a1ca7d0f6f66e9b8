"""Made-up measurements and races for the tests of the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from diagnose.training.speedup import FEW_ORDERS, around
from estimators.results import GeneralizedSmoothness, Noise, Smoothness, Spectrum
from reports.record.diagnosis import NOT_YET, Prediction, Training, absent

NOISE = replace(absent(Noise, "not measured"), density=0.4, l1=14.0, l2=1.7)
SMOOTH = replace(
    absent(Smoothness, "not measured"),
    density=0.25,
    density_interval=(0.25 * 46 / 48, 0.25),
    l1_lower=46.0,
    l1_upper=48.0,
    sharpness=1.6,
)
SPECTRUM = absent(Spectrum, "not measured")
GENERAL = absent(GeneralizedSmoothness, "too narrow a range of gradients")
NOTHING = absent(Prediction, NOT_YET)
OFF = absent(Training, "training was off (--no-training)")


def entry(loss: float | None, rate: float = 0.1, **more: Any) -> dict[str, Any]:
    """A method's entry that ended at this loss, known to 1%."""
    ends = None if loss is None else (loss - 0.01 * abs(loss), loss + 0.01 * abs(loss))
    return {
        "learning_rate": rate,
        "final_loss": loss,
        "final_loss_interval": ends,
        "lowest_loss": loss,
        "lowest_loss_interval": ends,
        "lowest_loss_rate": rate,
        "steps_to_target": None,
        "tuning_range": 0.8,
        "tuning_range_at_least": False,
        **more,
    }


def trained(ratios: Sequence[float], **changes: Any) -> Training:
    """A race with these speed-ups, one for each order of the batches, as a t interval of their logarithms sees them."""
    logs = [math.log(ratio) for ratio in ratios]
    speedup, orders = math.exp(float(np.mean(logs))), len(logs)
    error = float(stats.sem(logs)) if orders >= 4 else None
    pair = around(speedup, error, orders)
    base = Training(
        steps=500,
        target_loss=2.0,
        target_floored=False,
        initial_loss=10.0,
        speedup=speedup,
        speedup_interval=pair,
        speedup_se=error,
        speedup_seeds=list(ratios),
        speedup_by_target=None,
        looks=[{"orders": orders, "speedup": speedup, "interval": pair, "answer": "undecided"}],
        decided_by="orders",
        best_other=None,
        best_other_speedup=None,
        best_other_interval=None,
        curves_file="runs.csv",
        methods={"sgd": entry(2.0, 1.78), "adagrad": entry(1.0, 0.32)},
        batch_sizes=None,
        noise_terms=None,
        why={} if pair else dict.fromkeys(("speedup_interval", "speedup_se"), FEW_ORDERS),
    )
    return replace(base, **changes)


def points(*rows: tuple[float | None, float | None]) -> Smoothness:
    """Curvature with these (sharpness, R_L) along the runs, the start first."""
    return replace(SMOOTH, points=[{"sharpness": sharp, "l1_upper": sharp, "density": r_l} for sharp, r_l in rows])
