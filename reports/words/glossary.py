"""The keys of result.json in words: a short name for each, as a sentence takes it; intervals take their value's."""

from __future__ import annotations

from collections.abc import Mapping

from reports.words.sentences import method_name, printable

PARTS: Mapping[str, str] = {
    "task": "the description of the task",
    "noise": "gradient noise",
    "hessian_diagonal": "the Hessian diagonal",
    "smoothness": "smoothness",
    "spectrum": "the spectrum of the Hessian",
    "generalized_smoothness": "generalized smoothness",
    "bounds": "the ratios of the bounds",
    "training": "the race",
    "prediction": "the prediction before training",
    "verdict": "the verdict",
    "cost": "the cost of the run",
}
KEYS: Mapping[str, Mapping[str, str]] = {
    "task": {
        "model": "name of the model",
        "data": "name of the data",
        "loss": "name of the loss",
        "parameters": "number of parameters",
        "rows": "rows of the data",
        "samples": "samples of the sample set",
        "batch_size": "batch size",
        "seed": "seed",
        "seeds": "orders of the batches",
        "dtype": "number format",
        "device": "device",
        "fingerprint": "fingerprint of data and weights",
        "curvature_samples": "samples for curvature",
        "training_rows": "rows that the runs trained on",
        "understood": "how model and data were read",
    },
    "noise": {
        "l1": "noise ‖σ‖₁",
        "l2": "noise ‖σ‖₂",
        "sqrt_d_l2": "√d‖σ‖₂, the most that ‖σ‖₁ could be",
        "density": "noise density φ(σ)",
        "exact": "whether the noise is that of all rows",
        "rare_rows": "how rare a row must be for the noise to miss it",
        "density_live": "noise density without the coordinates where σ = 0",
        "dead_fraction": "share of the coordinates without noise",
        "effective_dimension": "effective dimension of the noise",
        "noise_scale_l2": "noise scale of SGD",
        "noise_scale_l1": "noise scale of AdaGrad",
        "tail_index": "how heavy the tails of the noise are",
        "samples": "samples that the noise was measured on",
        "batch_scaling": "noise of batches by their size",
        "gradient_l1": "gradient ‖∇f‖₁ at the start",
        "gradient_l2": "gradient ‖∇f‖₂ at the start",
        "tensors": "noise by tensor",
        "token_deciles": "noise by how often a token occurs",
    },
    "hessian_diagonal": {
        "abs_sum": "sum of the sizes of the Hessian diagonal",
        "trace": "trace of the Hessian",
        "probes": "products spent on the Hessian diagonal",
        "samples": "samples that the Hessian diagonal was measured on",
        "exact": "whether the Hessian diagonal is exact",
        "negative_fraction": "share of the coordinates with negative curvature",
        "tensors": "Hessian diagonal by tensor",
    },
    "smoothness": {
        "l1_lower": "lower bound of the smoothness ‖L‖₁",
        "l1_upper": "upper bound of the smoothness ‖L‖₁",
        "confidence": "probability with which the bracket holds",
        "gap_wanted": "width that the bracket was to reach",
        "ended_by": "what ended the bracket",
        "sharpness": "largest curvature λ",
        "sharpness_wanted": "how closely λ was to be known",
        "density": "curvature density R_L",
        "density_rotated": "R_L after a random rotation",
        "diagonal_sum": "Σ|hⱼ| beside the bracket",
        "row_norm_sum": "Σ√(H²)ⱼⱼ beside the bracket",
        "hessian_11": "Σ|Hⱼₖ| beside the bracket",
        "products": "Hessian products spent on the bracket",
        "samples": "samples that smoothness was measured on",
        "global_l1": "a smoothness that holds at every point",
        "whole_data": "smoothness of all rows, from the draw",
        "points": "smoothness along the runs",
        "tensors": "smoothness by tensor",
        "token_deciles": "smoothness by how often a token occurs",
    },
    "spectrum": {
        "largest": "largest eigenvalue",
        "smallest": "smallest eigenvalue",
        "eigenvalues": "list of eigenvalues",
        "steps": "steps of the Lanczos iteration",
        "largest_lower": "lower bound of the largest eigenvalue",
        "largest_upper": "upper bound of the largest eigenvalue",
        "smallest_lower": "lower bound of the smallest eigenvalue",
        "smallest_upper": "upper bound of the smallest eigenvalue",
        "rounding": "rounding error of the eigenvalues",
        "confidence": "probability with which the bounds of the eigenvalues hold",
        "samples": "samples that the spectrum was measured on",
        "eigenvalue_density": "density of the eigenvalues",
        "directional": "curvature along the step of each method",
        "kinks": "curvature over finite steps",
    },
    "generalized_smoothness": {
        "l0_l1": "curvature ‖L₀‖₁ that stays where the gradient vanishes",
        "l1_median": "growth L₁ of curvature with the gradient",
        "identified_fraction": "share of the coordinates where L₁ is told from L₀",
        "helps_fraction": "share of the coordinates where L₁ helps",
        "permutation_p": "whether the growth with the gradient may be chance",
        "coverage": "share of left-out points at which the pair (L₀, L₁) holds",
        "tightness": "how far the pair (L₀, L₁) lies above the curvature",
        "tighter": "which of the two assumptions is the tighter one",
        "whole": "the pair (L₀, L₁) of all coordinates together",
        "isotropic": "the isotropic pair (ℓ₀, ℓ₁)",
        "l1_by_group": "growth with the gradient, run by run",
        "control": "the control on a frozen quadratic",
        "points": "points of the fit",
        "tensors": "generalized smoothness by tensor",
    },
    "bounds": {
        "d_inf": "distance D∞ that AdaGrad's best run went",
        "d_2": "distance D₂ that SGD's best run went",
        "smoothness_ratio": "curvature ratio with the distances of the runs",
        "noise_ratio": "noise ratio with the distances of the runs",
        "smoothness_ratio_box": "curvature ratio R_L",
        "noise_ratio_box": "noise ratio φ(σ)",
    },
    "training": {
        "steps": "steps of every run",
        "target_loss": "target loss",
        "target_floored": "whether the target was raised",
        "initial_loss": "loss at the start",
        "speedup": "AdaGrad's speed-up over SGD",
        "speedup_se": "standard error of the log speed-up",
        "speedup_seeds": "speed-up of each order of the batches",
        "speedup_by_target": "speed-up by target",
        "looks": "how the race was decided, look by look",
        "decided_by": "what ended the race",
        "best_other": "the best of the other methods",
        "best_other_speedup": "AdaGrad's speed-up over the best of the other methods",
        "curves_file": "file of the loss curves",
        "methods": "result of each method",
        "batch_sizes": "final losses by batch size",
        "noise_terms": "up to which batch size larger batches pay",
    },
    "prediction": {
        "speedup": "predicted speed-up",
        "interval": "interval of the predicted speed-up",
        "probability_adagrad": "predicted probability that AdaGrad wins",
        "calibration": "record of the prediction on other tasks",
        "stages": "prediction as the race goes on",
    },
    "verdict": {
        "answer": "the answer",
        "confidence": "confidence in the answer",
        "confidence_meaning": "what the confidence means",
        "best_method": "the best method of all",
        "best_tied": "methods that are not told from the best one",
        "best_margin": "how far the best method is ahead of SGD and AdaGrad",
        "best_by": "the loss that the best method is chosen by",
        "theory": "what the theory says",
        "advice": "what to do",
        "reasons": "reasons of the answer",
        "evidence": "what was measured and what it says",
        "assumptions": "which assumptions of the theory hold here",
    },
    "cost": {
        "seconds": "time of the run",
        "forward_backward_passes": "passes of the run",
        "attempts": "attempts of the run",
        "stages": "time of each stage",
        "step_seconds": "time of one training step",
    },
}
WITHIN: Mapping[str, Mapping[str, str]] = {
    "noise.tail_index": {
        "median": "median tail index",
        "lower": "lower quartile of the tail index",
        "upper": "upper quartile of the tail index",
        "coordinates": "coordinates of the tail index",
        "samples": "samples of the tail index",
    },
    "smoothness.whole_data": {
        "interval": "interval of ‖L‖₁ of all rows",
        "mean": "estimate of ‖L‖₁ of all rows",
        "inflation": "by how much the draw inflates ‖L‖₁",
        "rare_rows": "how rare a row must be for smoothness to miss it",
        "samples": "samples of the draw for curvature",
        "rows": "rows behind the draw for curvature",
        "products": "products spent on ‖L‖₁ of all rows",
    },
    "spectrum.eigenvalue_density": {
        "grid": "places of the density of the eigenvalues",
        "density": "density of the eigenvalues itself",
        "spread": "scatter of the density of the eigenvalues",
        "lower": "lower end of the density's band",
        "upper": "upper end of the density's band",
        "width": "width of the density's kernel",
        "resolution": "resolution of the density",
        "outliers": "eigenvalues at the ends that are known one by one",
        "starts": "starts of the density",
        "mean": "mean eigenvalue",
        "mean_square": "mean square of the eigenvalues",
    },
    "generalized_smoothness.tighter": {
        "assumption": "which of the two assumptions is the tighter one",
        "factor": "by how much one of the two assumptions is tighter",
    },
    "generalized_smoothness.isotropic": {
        "l0": "ℓ₀ of the isotropic pair",
        "l1": "ℓ₁ of the isotropic pair",
        "coverage": "share of left-out points at which the isotropic pair holds",
        "tightness": "how far the isotropic pair lies above the curvature",
        "permutation_p": "whether the isotropic growth may be chance",
    },
    "generalized_smoothness.whole": {
        "l0": "L₀ of all coordinates together",
        "l1": "L₁ of all coordinates together",
        "gradient_range": "range of the gradients of all coordinates together",
    },
    "generalized_smoothness.control": {
        "l1_median": "growth L₁ on the frozen quadratic",
        "helps_fraction": "share of the coordinates where L₁ helps on the frozen quadratic",
        "tensors_l1": "largest growth L₁ of a tensor on the frozen quadratic",
        "whole_l1": "growth L₁ of all coordinates together on the frozen quadratic",
        "isotropic_l1": "growth ℓ₁ on the frozen quadratic",
    },
}
OF_METHODS: Mapping[str, Mapping[str, str]] = {
    "training.methods": {
        "learning_rate": "best learning rate",
        "final_loss": "final loss",
        "loss_resolution": "rounding of the final loss",
        "lowest_loss": "lowest final loss",
        "lowest_loss_interval": "lowest final loss",
        "lowest_loss_rate": "rate of the lowest final loss",
        "steps_to_target": "steps to the target loss",
        "orders": "orders of the batches",
        "tuning_range": "tuning range",
        "tuning_range_at_least": "whether the tuning range may be wider",
        "runs": "number of runs",
        "diverged": "number of runs that diverged",
        "adagrad_speedup": "AdaGrad's speed-up over it",
        "adagrad_target": "target loss beside AdaGrad",
        "adagrad_rates": "best rates beside AdaGrad",
        "adagrad_steps": "steps beside AdaGrad",
        "validation_loss": "held-out loss",
        "validation_accuracy": "held-out accuracy",
        "state_bytes": "memory of the state",
    },
    "training.noise_terms": {
        "slope": "slope of the final loss in the noise",
        "predicted": "the bound's slope in the noise",
        "pays_up_to": "largest batch size that pays",
        "pays_at_least": "whether still larger batches pay",
    },
    "spectrum.directional": {
        "sharpness": "curvature along its step",
        "decrease": "what its best step takes off",
    },
}
"""Keys of parts that hold one entry for each method."""


def interval_of(key: str) -> str | None:
    """The key whose interval this one is."""
    return key.removesuffix("_interval") if key.endswith("_interval") else None


def named(path: tuple[str, ...]) -> tuple[str, str]:
    """A key of result.json in words, and whose it is ("" where it belongs to no method).

    Args:
        path: the part, its key and, for a value inside it, the way to that: ("training", "methods", "adam", "orders").
    """
    head, last = ".".join(path[:2]), path[-1]
    value = interval_of(last) or last
    of_method = head in OF_METHODS and len(path) == 4
    table = OF_METHODS[head] if of_method else WITHIN.get(head, {}) if len(path) > 2 else KEYS.get(path[0], {})
    if last in table:
        said = table[last]
    elif value in table:
        said = f"95% interval of {table[value]}" if interval_of(last) else table[value]
    else:
        said = printable(last.replace("_", " "))
    return said, method_name(path[2]) if of_method else ""
