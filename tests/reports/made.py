"""Complete made-up diagnoses: every number is invented, only its shape is true to a real run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estimators.results import (
    NO_EMBEDDING,
    Finding,
    GeneralizedSmoothness,
    HessianDiagonal,
    Noise,
    Smoothness,
    Spectrum,
)
from estimators.rows import Rows
from reports.record.diagnosis import (
    NOT_YET,
    PARTS,
    Assumption,
    Bounds,
    Costs,
    Diagnosis,
    Evidence,
    Prediction,
    Task,
    Training,
    Verdict,
    absent,
)

Array = NDArray[np.float64]
SHAPES: Mapping[str, tuple[int, ...]] = {
    "embedding.weight": (60, 16),
    "hidden.weight": (32, 16),
    "hidden.bias": (32,),
    "output.weight": (10, 32),
    "output.bias": (10,),
}
SCRIPT, MARKUP = "<script>alert(1)</script>", "[red]x"
METHODS = ("sgd", "adagrad", "adagrad-norm", "adam")
WARNING = Finding(
    code="lr-at-grid-edge",
    severity="warning",
    stage="training",
    found="sgd's best learning rate, 10, is the largest tried",
    meaning="a larger rate may be better still, so the speed-up may be overstated",
    action="add larger rates with `--learning-rates`",
)
NOTE = Finding(
    code="tied-parameters",
    severity="note",
    stage="noise",
    found="output.weight is embedding.weight",
    meaning="the tensor counts once, under its first name",
    action="nothing to do",
)


def vectors(shapes: Mapping[str, tuple[int, ...]] = SHAPES, seed: int = 0) -> dict[str, dict[str, Array]]:
    """Log-normal noise and smoothness, a signed diagonal with bounds inside ±L, some coordinates dead."""
    rng = np.random.default_rng(seed)
    made: dict[str, dict[str, Array]] = {
        kind: {}
        for kind in (
            "noise",
            "hessian_diagonal",
            "hessian_diagonal_lower",
            "hessian_diagonal_upper",
            "smoothness",
            "l0",
            "l1",
        )
    }
    for name, shape in shapes.items():
        sigma = np.exp(rng.normal(-4, 1.5, shape))
        sigma[rng.random(shape) < 0.1] = 0.0
        smooth = np.exp(rng.normal(-1, 1.2, shape))
        diagonal = smooth * rng.uniform(-0.2, 0.5, shape)
        made["noise"][name] = sigma
        made["smoothness"][name] = smooth
        made["hessian_diagonal"][name] = diagonal
        made["hessian_diagonal_lower"][name] = np.maximum(diagonal - 0.1 * smooth, -smooth)
        made["hessian_diagonal_upper"][name] = np.minimum(diagonal + 0.1 * smooth, smooth)
        made["l0"][name] = 0.4 * smooth
        made["l1"][name] = np.full(shape, rng.uniform(0, 3))
    return made


def in_own_metric(method: str, value: float) -> dict[str, Any]:
    """The preconditioned sharpness of a point: known along adagrad's run alone."""
    keys = ("preconditioned", "preconditioned_interval")
    if method == "adagrad":
        return dict(zip(keys, (value, (value, 1.004 * value)), strict=True))
    return {**dict.fromkeys(keys), "why": dict.fromkeys(keys, "its P is I")}


def rows(methods: Sequence[str] = METHODS, seeds: int = 3, steps: int = 500) -> list[dict[str, Any]]:
    """Rows of runs.csv: power-law losses for five rates a method; the largest rate of sgd diverges."""
    at = sorted({0, steps} | {round(10 ** (k / 8)) for k in range(int(8 * math.log10(steps)) + 1)})
    pace = {"sgd": 0.25, "adagrad": 0.34, "adagrad-norm": 0.24, "adam": 0.36}
    best = {"sgd": 1.0, "adagrad": 0.1, "adagrad-norm": 10.0, "adam": 0.01}
    rng = np.random.default_rng(1)
    table = []
    for method in methods:
        for offset in range(-2, 3):
            learning_rate = best.get(method, 0.1) * 10 ** (offset / 4)
            for seed in range(seeds):
                wobble = 1 + 0.03 * rng.standard_normal()
                for step in at:
                    bad = method == "sgd" and offset == 2 and step > steps // 4
                    loss = 2.3 * (1 + step) ** (-pace.get(method, 0.3) * wobble / (1 + 0.6 * abs(offset)))
                    table.append(
                        {
                            "method": method,
                            "learning_rate": learning_rate,
                            "seed": seed,
                            "step": step,
                            "loss": None if bad else loss,
                            "gradient_l1": None if bad else 12 * loss,
                            "gradient_l2": None if bad else loss,
                            "diverged": bad,
                        }
                    )
                    if bad:
                        break
    return table


def _method(learning_rate: float, final: float, hit: float | None) -> dict[str, Any]:
    body: dict[str, Any] = {
        "learning_rate": learning_rate,
        "final_loss": final,
        "final_loss_interval": (final * 0.96, final * 1.04),
        "lowest_loss": final * 0.98,
        "lowest_loss_interval": (final * 0.94, final * 1.02),
        "lowest_loss_rate": learning_rate,
        "steps_to_target": hit,
        "orders": 8,
        "tuning_range": 0.75,
        "adagrad_speedup": 1.4,
        "adagrad_speedup_interval": (1.2, 1.63),
        "adagrad_target": 0.4,
        "adagrad_rates": [learning_rate, 0.1],
        "adagrad_steps": [280.0, 200.0],
        "state_bytes": 35_880,
        "validation_loss": final * 1.3,
        "validation_loss_interval": (final * 1.2, final * 1.4),
        "validation_accuracy": 0.913,
        "validation_accuracy_interval": (0.9, 0.926),
    }
    why = {}
    if hit is None:
        why["steps_to_target"] = "the mean curve never met the target"
    return body | ({"why": why} if why else {})


def _size(batch_size: int, sgd: float, adagrad: float) -> dict[str, Any]:
    def tuned(final: float) -> dict[str, Any]:
        return {"learning_rate": 0.1, "final_loss": final, "final_loss_interval": (0.95 * final, 1.05 * final)}

    return {
        "batch_size": batch_size,
        "speedup": sgd / adagrad,
        "speedup_interval": (0.9 * sgd / adagrad, 1.1 * sgd / adagrad),
        "methods": {"sgd": tuned(sgd), "adagrad": tuned(adagrad)},
    }


def assumptions() -> Rows:
    rows = (
        Assumption(
            assumption="smoothness by coordinate",
            status="supported",
            measure="largest over smallest max|eig H| at 11 points along the runs",
            value=1.4,
            interval=None,
            n=11,
            says="curvature hardly moves along the runs, so the L of the start describes them",
        ),
        Assumption(
            assumption="noise of bounded variance",
            status="not testable here",
            measure="tail index",
            value=None,
            interval=None,
            n=40,
            says="too few samples to tell how heavy the tails are",
        ),
        Assumption(
            assumption="smoothness that grows with the gradient",
            status="not supported",
            measure="share of left-out points at which the fitted pair fails",
            value=0.6,
            interval=None,
            n=10,
            says="the pair fails at 6 of 10 points left out of the fit",
        ),
    )
    return rows


def evidence() -> Rows:
    made = (
        Evidence(
            quantity="noise density φ(σ)",
            value=0.312,
            interval=(0.284, 0.341),
            neutral="0.95; strong below 0.5",
            says="the noise sits in few coordinates: strong for AdaGrad",
            side="adagrad",
        ),
        Evidence(
            quantity="curvature density R_L",
            value=0.241,
            interval=(0.229, 0.241),
            neutral="0.55; strong below 0.1",
            says="curvature is partly aligned with the coordinates",
            side="adagrad",
        ),
        Evidence(
            quantity="generalized smoothness: share of coordinates where L₁ helps",
            value=0.62,
            interval=None,
            neutral="none",
            says="the smoothness bound is tighter with L₁ than without",
            side="none",
        ),
        Evidence(
            quantity="measured speed-up of AdaGrad over SGD",
            value=1.87,
            interval=(1.52, 2.31),
            neutral="1; level from 0.8 to 1.25",
            says="AdaGrad needs fewer steps to the same loss",
            side="adagrad",
        ),
    )
    return made


def eigenvalue_density(sharpness: float, d: int) -> dict[str, Any]:
    """Most eigenvalues around 0, a few up to the sharpness, four starts."""
    width = 0.0112 * sharpness
    grid = np.linspace(-0.12 * sharpness - 4 * width, sharpness + 4 * width, 201)
    values = np.zeros(201)
    for at, mass in (
        (0.0, 1 - 30 / d),
        *((size * sharpness, 10 / d) for size in (-0.08, 0.2, 0.5)),
        (sharpness, 1 / d),
    ):
        values += mass * np.exp(-0.5 * ((grid - at * sharpness) / width) ** 2) / (width * math.sqrt(2 * math.pi))
    spread = 0.3 * np.sqrt(values * values.min() + values / (d * width))
    return {
        "grid": grid.tolist(),
        "density": values.tolist(),
        "spread": spread.tolist(),
        "lower": np.maximum(values - 3.2 * spread, 0).tolist(),
        "upper": (values + 3.2 * spread).tolist(),
        "width": width,
        "resolution": 0.8 * width,
        "outliers": 7,
        "starts": 4,
        "mean": 0.01 * sharpness,
        "mean_interval": (0.008 * sharpness, 0.012 * sharpness),
        "mean_square": 0.003 * sharpness**2,
        "mean_square_interval": (0.002 * sharpness**2, 0.004 * sharpness**2),
    }


def finished(name: str = "mlp", data: str = "digits") -> Diagnosis:
    """A trained task with every part measured, one warning and one note."""
    made = vectors()
    sizes = {key: int(np.prod(shape)) for key, shape in SHAPES.items()}
    d = sum(sizes.values())
    sigma, smooth, diagonal = made["noise"], made["smoothness"], made["hessian_diagonal"]
    l1, l2 = (float(sum(np.sum(v) for v in sigma.values())), float(np.sqrt(sum(np.sum(v**2) for v in sigma.values()))))
    density = l1 / (math.sqrt(d) * l2)
    upper = float(sum(np.sum(v) for v in smooth.values()))
    absolute = float(sum(np.sum(np.abs(v)) for v in diagonal.values()))
    trace = float(sum(np.sum(v) for v in diagonal.values()))
    sharpness = upper / (0.241 * d)
    points = [
        {
            "method": method,
            "step": step,
            "l1_lower": 0.95 * upper * factor,
            "l1_upper": upper * factor,
            "sharpness": sharpness * factor**1.3,
            "density": 0.241 * factor**-0.3,
            "density_interval": (0.94 * 0.241 * factor**-0.3, 0.241 * factor**-0.3),
            "gap_wanted": 0.06,
            "ended_by": "gap",
            "gradient_l1": 12.0 / factor,
            "gradient_l2": 1.0 / factor,
            **in_own_metric(method, 8.0 * factor),
        }
        for method, step, factor in (
            ("start", 0, 1.0),
            *(("adagrad", s, (1 + s) ** 0.2) for s in (16, 125, 500)),
            *(("sgd", s, (1 + s) ** 0.1) for s in (16, 125, 500)),
        )
    ]
    return Diagnosis(
        schema=1,
        tool_version="0.1.0",
        versions={"python": "3.13.5", "torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"},
        status="finished",
        command=f"diagnose {name} --data {data}",
        task=Task(
            model=name,
            data=data,
            loss="cross-entropy",
            parameters=d,
            rows=1797,
            samples=1024,
            batch_size=32,
            seed=0,
            seeds=3,
            dtype="float32",
            device="cpu",
            fingerprint="0123456789abcdef" * 4,
            curvature_samples=512,
            training_rows=1024,
            understood=(f"{data}: 1,797 rows, 64 features, 10 classes", f"{name}: two hidden layers"),
        ),
        noise=Noise(
            l1=l1,
            l2=l2,
            sqrt_d_l2=math.sqrt(d) * l2,
            density=density,
            density_interval=None,
            l1_interval=None,
            l2_interval=None,
            rare_rows=0.0024,
            exact=False,
            density_live=density / math.sqrt(0.9),
            dead_fraction=0.1,
            effective_dimension=(l1 / l2) ** 2,
            noise_scale_l2=88.4,
            noise_scale_l1=41.7,
            noise_scale_l2_interval=(60.0, 130.0),
            noise_scale_l1_interval=None,
            tail_index={"median": 3.1, "lower": 2.5, "upper": 4.0, "coordinates": 1000, "samples": 64},
            samples=1024,
            batch_scaling=None,
            gradient_l1=12.0,
            gradient_l2=1.0,
            tensors=[
                {
                    "name": key,
                    "parameters": sizes[key],
                    "l1": float(np.sum(v)),
                    "l2": float(np.sqrt(np.sum(v**2))),
                    "density": 0.4,
                    "dead_fraction": 0.1,
                }
                for key, v in sigma.items()
            ],
            token_deciles=None,
            why={
                "token_deciles": NO_EMBEDDING,
                "density_interval": "the samples are a part of the data",
                "l1_interval": "the samples are a part of the data",
                "l2_interval": "the samples are a part of the data",
                "noise_scale_l1_interval": "the samples are a part of the data",
                "batch_scaling": NOT_YET,
            },
        ),
        hessian_diagonal=HessianDiagonal(
            abs_sum=absolute,
            abs_sum_interval=(0.8 * absolute, 1.3 * absolute),
            trace=trace,
            trace_interval=(trace - 4, trace + 4),
            probes=64,
            samples=512,
            exact=False,
            negative_fraction=0.28,
            tensors=[
                {"name": k, "parameters": sizes[k], "trace": float(np.sum(v)), "abs_sum": float(np.sum(np.abs(v)))}
                for k, v in diagonal.items()
            ],
        ),
        smoothness=Smoothness(
            l1_lower=0.95 * upper,
            l1_upper=upper,
            confidence=0.999,
            gap_wanted=0.06,
            ended_by="gap",
            sharpness=sharpness,
            sharpness_interval=(sharpness, 1.004 * sharpness),
            sharpness_wanted=0.005,
            density=0.241,
            density_interval=(0.95 / 1.004 * 0.241, 0.241),
            density_rotated=None,
            diagonal_sum=absolute,
            row_norm_sum=0.6 * upper,
            hessian_11=None,
            hessian_11_interval=None,
            products=188,
            samples=512,
            global_l1=None,
            whole_data={
                "interval": (0.7 * upper, 1.1 * upper),
                "mean": 0.85 * upper,
                "inflation": 1 / 0.85,
                "samples": 512,
                "rows": 1797,
                "products": 61.0,
                "rare_rows": 0.0061,
            },
            points=points,
            tensors=[{"name": k, "parameters": sizes[k], "l1": float(np.sum(v))} for k, v in smooth.items()],
            token_deciles=None,
            why={
                "token_deciles": NO_EMBEDDING,
                "density_rotated": NOT_YET,
                "hessian_11": "formed for d ≤ 2,000 alone",
                "hessian_11_interval": "formed for d ≤ 2,000 alone",
                "global_l1": "a closed form exists for linear models alone",
            },
        ),
        spectrum=Spectrum(
            largest=sharpness,
            smallest=-0.12 * sharpness,
            eigenvalues=[
                float(x)
                for x in np.concatenate([-np.geomspace(0.12, 0.001, 12), np.geomspace(0.001, 1, 28)]) * sharpness
            ],
            steps=40,
            largest_lower=0.99998 * sharpness,
            largest_upper=1.004 * sharpness,
            smallest_lower=-0.13 * sharpness,
            smallest_upper=-0.11998 * sharpness,
            rounding=2e-5 * sharpness,
            confidence=0.999,
            samples=512,
            eigenvalue_density=eigenvalue_density(sharpness, d),
            directional={
                "sgd": {"sharpness": 1.75, "decrease": 0.02},
                "sign-sgd": {"sharpness": 0.49, "decrease": 0.03},
                "adagrad": {"sharpness": -0.1, "decrease": None, "why": {"decrease": "no best step"}},
            },
            kinks=[
                {"direction": "gradient", "h": 0.1, "curvature": 2.0, "finite": 2.5},
                {"direction": "gradient", "h": 0.01, "curvature": 2.0, "finite": None},
            ],
        ),
        generalized_smoothness=GeneralizedSmoothness(
            l0_l1=0.4 * upper,
            l0_l1_interval=(0.3 * upper, 0.5 * upper),
            l1_median=0.8,
            l1_median_interval=(0.6, 1.0),
            identified_fraction=0.9,
            helps_fraction=0.62,
            permutation_p=0.004,
            coverage=0.9,
            tightness=1.3,
            tighter={"assumption": None, "factor": None, "why": dict.fromkeys(("assumption", "factor"), "made up")},
            whole={"l0": 0.5 * upper, "l1": 0.7, "gradient_range": 12.0},
            isotropic={"l0": 2.1, "l1": 0.4, "coverage": 0.8},
            l1_by_group=None,
            control={"l1_median": 0.1, "isotropic_l1": 0.02},
            points=[
                {
                    "fitted": k % 3 != 2,
                    "gradient_l1": 12 * 0.7**k,
                    "gradient_l2": 0.7**k,
                    "sharpness": 2.0 + 0.38 * 0.7**k,
                    "l1_upper": upper * (0.5 + 0.5 * 0.7**k),
                }
                for k in range(10)
            ],
            tensors=[
                {"name": k, "parameters": sizes[k], "l0_l1": 0.4 * float(np.sum(v)), "l1": 0.8, "gradient_range": 12.0}
                for k, v in smooth.items()
            ],
            why={"l1_by_group": "the points were given no groups"},
        ),
        bounds=Bounds(
            d_inf=1.2,
            d_2=8.4,
            smoothness_ratio=1.31,
            noise_ratio=0.82,
            smoothness_ratio_box=0.241,
            noise_ratio_box=density,
        ),
        training=Training(
            steps=500,
            target_loss=0.487,
            target_floored=False,
            initial_loss=2.3,
            speedup=1.87,
            speedup_interval=(1.52, 2.31),
            speedup_se=0.0885,
            speedup_seeds=(1.71, 1.93, 1.98, 2.1, 2.05, None, 1.9, 2.2),
            speedup_by_target=[
                {"loss": 1.7, "speedup": 1.2, "interval": (0.95, 1.5)},
                {"loss": 1.1, "speedup": 1.6, "interval": (1.3, 1.95)},
                {"loss": 0.487, "speedup": 1.87, "interval": (1.52, 2.31)},
            ],
            looks=[
                {"orders": 4, "speedup": 1.9, "interval": (0.9, 4.1), "answer": "undecided"},
                {"orders": 8, "speedup": 1.87, "interval": (1.52, 2.31), "answer": "adagrad"},
            ],
            decided_by="interval",
            best_other="adam",
            best_other_speedup=1.4,
            best_other_interval=(1.13, 1.73),
            curves_file="runs.csv",
            methods={
                "sgd": _method(1.0, 0.487, 467.5),
                "adagrad": _method(0.1, 0.278, 250.0),
                "adagrad-norm": _method(10.0, 0.52, None),
                "adam": _method(0.01, 0.245, 220.0),
            },
            batch_sizes=[_size(8, 0.61, 0.35), _size(32, 0.49, 0.28), _size(128, 0.44, 0.27)],
            noise_terms={
                "sgd": {
                    "slope": 0.61,
                    "slope_interval": (0.5, 0.72),
                    "predicted": 3.2,
                    "pays_up_to": 128,
                    "pays_at_least": True,
                },
                "adagrad": {
                    "slope": 0.32,
                    "slope_interval": (0.2, 0.44),
                    "predicted": 2.6,
                    "pays_up_to": 32,
                    "pays_at_least": False,
                },
            },
        ),
        prediction=absent(Prediction, NOT_YET),
        verdict=Verdict(
            answer="adagrad",
            confidence=0.98,
            confidence_meaning="the share of the t distribution of the log speed-up over 3 seeds that lies above 1",
            best_method="adam",
            best_margin=0.018,
            best_by="validation",
            best_tied=(),
            theory="Noise sits in few coordinates (φ 0.31), curvature is partly aligned with the coordinates "
            "(R_L 0.24): the theory favours AdaGrad.",
            advice="Use AdaGrad at a learning rate near 0.1 in batches of 32.",
            reasons=("The measured speed-up is 1.9×, 95% interval [1.5, 2.3], above 1.",),
            evidence=evidence(),
            assumptions=assumptions(),
        ),
        warnings=(WARNING, NOTE),
        cost=Costs(
            seconds=93.4,
            forward_backward_passes=8120.5,
            attempts=1,
            stages={
                "noise": 2.1,
                "hessian_diagonal": 3.4,
                "smoothness": 14.2,
                "spectrum": 1.1,
                "training": 61.0,
                "generalized_smoothness": 11.6,
            },
            step_seconds={"sgd": 0.0011, "adagrad": 0.0013, "adagrad-norm": 0.0012, "adam": 0.0016},
        ),
        vectors=made,
        runs=rows(),
    )


def untrained() -> Diagnosis:
    """The same task with --no-training: measurements at the start alone."""
    base, reason = finished(), "not trained (--no-training)"
    return replace(
        base,
        command="diagnose mlp --data digits --no-training",
        smoothness=replace(base.smoothness, points=list(base.smoothness.points or ())[:1]),
        generalized_smoothness=absent(GeneralizedSmoothness, reason),
        bounds=replace(
            base.bounds,
            d_inf=None,
            d_2=None,
            smoothness_ratio=None,
            noise_ratio=None,
            why=dict.fromkeys(("d_inf", "d_2", "smoothness_ratio", "noise_ratio"), reason),
        ),
        training=absent(Training, reason),
        verdict=replace(
            base.verdict,
            answer="undecided",
            confidence=None,
            confidence_meaning=None,
            best_method=None,
            best_by=None,
            best_tied=None,
            best_margin=None,
            advice="Train both: the same command without `--no-training`.",
            reasons=("Nothing was trained: training was off (--no-training).",),
            why=dict.fromkeys(
                ("confidence", "confidence_meaning", "best_method", "best_by", "best_tied", "best_margin"), reason
            ),
        ),
        warnings=(),
        vectors={k: v for k, v in base.vectors.items() if k not in ("l0", "l1")},
        runs=(),
    )


def hostile() -> Diagnosis:
    """Names that are markup, mathematics, control characters or very long."""
    base = finished(SCRIPT, MARKUP)
    names = (SCRIPT, MARKUP, "$x^{$", "a\x00b\x1b[31mc\u202e", "layer." * 60 + "weight")
    rename = dict(zip(SHAPES, names, strict=True))

    def renamed(table: Any) -> list[dict[str, Any]]:
        return [{**row, "name": rename[row["name"]]} for row in table]

    return replace(
        base,
        noise=replace(base.noise, tensors=renamed(base.noise.tensors)),
        smoothness=replace(base.smoothness, tensors=renamed(base.smoothness.tensors)),
        hessian_diagonal=replace(base.hessian_diagonal, tensors=renamed(base.hessian_diagonal.tensors)),
        generalized_smoothness=replace(
            base.generalized_smoothness, tensors=renamed(base.generalized_smoothness.tensors)
        ),
        warnings=(replace(WARNING, found=f'{SCRIPT} & {MARKUP} "quoted" {{{{ 7*7 }}}}'),),
        vectors={kind: {rename[k]: v for k, v in named.items()} for kind, named in base.vectors.items()},
    )


def gpt2_shapes(layers: int = 12, vocabulary: int = 1000, width: int = 8) -> dict[str, tuple[int, ...]]:
    """The tensors of a GPT-2 with a tied output head."""
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (vocabulary, width),
        "transformer.wpe.weight": (64, width),
    }
    for k in range(layers):
        for name, rows in (("attn.c_attn", 3), ("attn.c_proj", 1), ("mlp.c_fc", 4), ("mlp.c_proj", 4)):
            shapes[f"transformer.h.{k}.{name}.weight"] = (rows * width, width)
            shapes[f"transformer.h.{k}.{name}.bias"] = (rows * width,)
        for name in ("ln_1", "ln_2"):
            shapes |= {f"transformer.h.{k}.{name}.weight": (width,), f"transformer.h.{k}.{name}.bias": (width,)}
    return shapes | {"transformer.ln_f.weight": (width,), "transformer.ln_f.bias": (width,)}


def deciles(name: str, values: Array, unseen: float = 0.41) -> list[dict[str, Any]]:
    """Rows by token frequency: counts by a power law over the tokens that occur, the first ones never seen."""
    vocabulary = values.shape[0]
    never = int(unseen * vocabulary)
    counts = np.ceil(3000 / (1 + np.arange(vocabulary - never)[::-1]) ** 1.1).astype(int)
    groups = [(0, np.arange(never), np.zeros(never, int))]
    for decile, index in enumerate(np.array_split(np.arange(counts.size), 10), 1):
        groups.append((decile, never + index, counts[index]))
    return [
        {
            "tensor": name,
            "decile": decile,
            "tokens": int(rows.size),
            "least": int(often.min()),
            "most": int(often.max()),
            "l1": float(values[rows].sum()),
            "share": float(values[rows].sum() / values.sum()),
            "mean": float(values[rows].mean()),
            "dead_fraction": float((values[rows] == 0).mean()),
        }
        for decile, rows, often in groups
        if rows.size
    ]


def language(layers: int = 12) -> Diagnosis:
    """A GPT-2 on instruction rows: tensors by layer, an embedding by token frequency, long lines, opening notes."""
    base, embedding = finished("gpt2", "alpaca"), "transformer.wte.weight"
    shapes = gpt2_shapes(layers)
    kinds = vectors(shapes)
    frequent = np.geomspace(0.02, 50, shapes[embedding][0])[:, None]
    for kind in ("noise", "smoothness"):
        kinds[kind][embedding] *= frequent
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    sigma, smooth = kinds["noise"], kinds["smoothness"]
    l2 = {name: float(np.sqrt(np.sum(v**2))) for name, v in sigma.items()}
    line = (
        "alpaca.json: 52,002 instruction rows, bytes as tokens, prompt template of the data set, loss on 2,914 "
        "labelled tokens of the answers, 11 answers cut at 256 tokens, 887 rows dropped as no answer was left"
    )
    opening = Finding("batchnorm-eval", "note", "opening", f"measured in evaluation mode: {line}", line, line)
    whole = float(sum(np.sum(v) for v in smooth.values()))
    return replace(
        base,
        command="diagnose model.pt --data alpaca --max-length 256",
        settings={"max_length": 256},
        task=replace(
            base.task,
            parameters=sum(sizes.values()),
            rows=52_002,
            samples=32,
            batch_size=4,
            curvature_samples=8,
            training_rows=915,
            understood=(line, "model.pt: gpt2 with 12 layers (tied tensors counted once)"),
        ),
        noise=replace(
            base.noise,
            tensors=[
                {
                    "name": name,
                    "parameters": sizes[name],
                    "l1": float(np.sum(v)),
                    "l2": l2[name],
                    "density": float(np.sum(v)) / (math.sqrt(sizes[name]) * l2[name]),
                    "dead_fraction": float(np.mean(v == 0)),
                }
                for name, v in sigma.items()
            ],
            token_deciles=deciles(embedding, sigma[embedding]),
            why={k: v for k, v in base.noise.why.items() if k != "token_deciles"},
        ),
        smoothness=replace(
            base.smoothness,
            l1_lower=0.95 * whole,
            l1_upper=whole,
            samples=8,
            tensors=[{"name": n, "parameters": sizes[n], "l1": float(np.sum(v))} for n, v in smooth.items()],
            token_deciles=deciles(embedding, smooth[embedding]),
            why={k: v for k, v in base.smoothness.why.items() if k != "token_deciles"},
        ),
        training=replace(base.training, steps=40),
        warnings=(WARNING, opening),
        vectors=kinds,
        runs=rows(steps=40),
    )


def large(tensors: int = 300) -> Diagnosis:
    """A model of 100 million parameters: 300 tensors, two million stored coordinates, long runs."""
    base = finished("gpt2-large", "alpaca")
    share = 100_000_000 // tensors
    names = [f"transformer.h.{k}.mlp.c_fc.weight" for k in range(tensors)]
    shapes = dict.fromkeys(names, (2_000_000 // tensors,))
    return replace(
        base,
        task=replace(base.task, parameters=share * tensors),
        noise=replace(
            base.noise,
            tensors=[
                {"name": n, "parameters": share, "l1": 1.0 + k, "l2": 0.1, "density": 0.3, "dead_fraction": 0.0}
                for k, n in enumerate(names)
            ],
        ),
        smoothness=replace(
            base.smoothness, tensors=[{"name": n, "parameters": share, "l1": 5.0 + k} for k, n in enumerate(names)]
        ),
        hessian_diagonal=replace(
            base.hessian_diagonal,
            tensors=[{"name": n, "parameters": share, "trace": 1.0, "abs_sum": 2.0 + k} for k, n in enumerate(names)],
        ),
        vectors=vectors(shapes),
        runs=rows(steps=20_000),
    )


def empty(status: Any = "started") -> Diagnosis:
    """A run that has measured nothing: every key of every part null, each with a reason."""
    return replace(
        finished(),
        **{name: absent(kind, "not reached yet") for name, kind in PARTS.items()},
        status=status,
        warnings=(),
        vectors={},
        runs=(),
    )
