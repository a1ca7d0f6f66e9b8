"""Section 4.1: gradient noise."""

from __future__ import annotations

from collections.abc import Mapping

from estimators.numbers.rare_rows import BOUND, samples_to_see
from estimators.results import Noise
from reports.page.sections.parts import Section, concentration_figure, cost, decile_parts, tensor_parts, three
from reports.page.tables import Table, by_tensor, quantity
from reports.record.diagnosis import Diagnosis
from reports.words.numbers import number, percent
from reports.words.sentences import noise_side, stage_line, unless_rare

OF_THE_DRAW = (
    "σ here is that of the samples drawn, without a correction, so it is not the ‖σ‖₁ above: that is of all rows."
)


def noise(diagnosis: Diagnosis) -> Section:
    """Gradient noise at the start."""
    part = diagnosis.noise
    drawn, sentence = concentration_figure("noise-concentration", diagnosis.vectors.get("noise", {}), "‖σ‖₁")
    finding = stage_line("noise", part)
    if part.density is not None:
        finding = f"Noise {finding}: {noise_side(part.density)}. {sentence}".strip()
    cautions = []
    if part.exact is False and part.density_interval is None and part.density is not None:
        cautions.append(
            f"These are the values of the {number(part.samples)} samples drawn, not of all "
            f"{number(diagnosis.task.rows)} rows; rare rows may hide noise that the draw never saw."
        )
    if part.rare_rows and (part.l1_interval is not None or part.density_interval is not None):
        cautions.append(_rare(part, diagnosis.task.rows))
    if part.dead_fraction:
        cautions.append(
            f"{percent(part.dead_fraction)} of the coordinates have σ = 0. That lowers φ though no noise is "
            f"concentrated: compare φ without them, {number(part.density_live)}."
        )
    by_layer, layer_tables = tensor_parts("noise", "Noise", part.tensors, "‖σ‖₁", "φ(σ)")
    by_token, token_tables, remarks = decile_parts("noise", "Noise", part.token_deciles, "‖σ‖₁", "σ", "noise")
    tensors = by_tensor(
        "Noise by tensor",
        part.tensors,
        "l1",
        (
            ("l1", "‖σ‖₁", number),
            ("l2", "‖σ‖₂", number),
            ("density", "φ(σ)", three),
            ("dead_fraction", "σ = 0", percent),
        ),
    )
    scaling = part.batch_scaling and Table(
        "Noise of batches drawn with replacement, beside σ/√M",
        ("batch size M", "ℓ₁ norm", "‖σ‖₁/√M", "ℓ₂ norm", "‖σ‖₂/√M", "batches"),
        tuple(
            tuple(number(r.get(key)) for key in ("batch_size", "l1", "l1_predicted", "l2", "l2_predicted", "batches"))
            for r in part.batch_scaling
        ),
        note=OF_THE_DRAW if part.exact is False else "",
    )
    if part.tail_index is not None:
        remarks = (*remarks, _tails(part.tail_index))
    return Section(
        id="noise",
        title="Gradient noise",
        question="Does the gradient noise sit in few coordinates, or is it spread over all of them?",
        finding=finding,
        remarks=remarks,
        cautions=tuple(cautions),
        figures=drawn + by_layer + by_token,
        quantities=(
            quantity(
                part, "density", "φ(σ)", "density, ‖σ‖₁ over √d‖σ‖₂; 1 is uniform", interval_key="density_interval"
            ),
            quantity(part, "density_live", "φ, live", "the same without the coordinates where σ = 0"),
            quantity(part, "l1", "‖σ‖₁", "in AdaGrad's noise term", interval_key="l1_interval"),
            quantity(part, "l2", "‖σ‖₂", "in SGD's noise term", interval_key="l2_interval"),
            quantity(part, "sqrt_d_l2", "√d‖σ‖₂", "the most that ‖σ‖₁ could be"),
            quantity(part, "dead_fraction", "σ = 0", "share of the coordinates without noise", show=percent),
            quantity(
                part,
                "effective_dimension",
                "(‖σ‖₁/‖σ‖₂)²",
                "effective dimension: how many equally noisy coordinates act alike",
            ),
            quantity(
                part,
                "noise_scale_l2",
                "tr Σ/‖∇f‖₂²",
                "noise scale: the batch size at which SGD stops gaining",
                interval_key="noise_scale_l2_interval",
            ),
            quantity(
                part,
                "noise_scale_l1",
                "(‖σ‖₁/‖∇f‖₁)²",
                "its ℓ₁ counterpart: the batch size at which AdaGrad stops gaining",
                interval_key="noise_scale_l1_interval",
            ),
            quantity(part, "gradient_l1", "‖∇f‖₁", "gradient at the start"),
            quantity(part, "gradient_l2", "‖∇f‖₂", "gradient at the start"),
            quantity(part, "samples", "n", "samples measured"),
        ),
        tables=tuple(t for t in (*layer_tables, tensors, *token_tables, scaling) if t),
        cost=cost(diagnosis, "noise"),
    )


def _rare(part: Noise, rows: int | None) -> str:
    """What the draw is blind to, and the draw that would not be."""
    share = part.rare_rows or 0.0
    text = (
        f"The intervals hold {unless_rare(share, 'the noise')}: what happens in fewer rows is in none of the "
        f"{number(part.samples)} drawn in more than 2.5% of draws, and no number measured on them can show it."
    )
    if share <= BOUND:
        return text
    return f"{text} `--samples {samples_to_see(BOUND, rows)}` brings that to 1 in {number(int(1 / BOUND))}."


def _tails(index: Mapping[str, float]) -> str:
    """How heavy the tails of the samples' gradients are, coordinate by coordinate."""
    return (
        f"Tail index of the gradients over {number(index['samples'])} samples: median {number(index['median'], 2)}, "
        f"quartiles {number(index['lower'], 2)} and {number(index['upper'], 2)} on {number(index['coordinates'])} "
        "coordinates; Gaussian gradients read about 4.3, and the lower it is the more single samples matter."
    )
