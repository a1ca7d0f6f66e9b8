"""The page as a document: well formed, self-contained, small, the same every time, whatever the diagnosis holds."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cache
from html import unescape
from typing import Any

import html5lib
import matplotlib
import pytest

from estimators.results import ALL_ROWS, NONE_MISSED, stored_keys
from reports.page.page import render
from reports.page.svg import INK, PAPER
from reports.record.diagnosis import NOT_YET, PARTS, Diagnosis, absent
from reports.words import glossary
from reports.words.numbers import number
from tests.markers import marked
from tests.reports import made

DIAGNOSES: Mapping[str, Callable[[], Diagnosis]] = {
    "finished": made.finished,
    "untrained": made.untrained,
    "hostile": made.hostile,
    "large": made.large,
    "language": made.language,
    "empty": made.empty,
}
everything = pytest.mark.parametrize("name", DIAGNOSES)
pytestmark = pytest.mark.filterwarnings("error")


@cache
def page(name: str) -> str:
    return render(DIAGNOSES[name]())


@everything
def test_it_is_well_formed(name: str) -> None:
    parser = html5lib.HTMLParser(strict=True, tree=html5lib.getTreeBuilder("etree"), namespaceHTMLElements=False)
    tree = parser.parse(page(name))
    assert len(tree.findall(".//h1")) == 1
    assert tree.find("head/title").text
    ranks = [(h.find("span").text, "".join(h.itertext()).split(maxsplit=1)[1]) for h in tree.findall(".//h2")]
    assert ranks == [
        ("2", "Why"),
        ("3", "How far to trust it"),
        ("4", "The measurements"),
        ("5", "What was not measured, and why"),
        ("6", "Reproduce"),
    ]


def test_the_strict_parser_catches_a_fault() -> None:
    with pytest.raises(html5lib.html5parser.ParseError):
        html5lib.HTMLParser(strict=True).parse(page("empty").replace("</main>", "</nain>"))


@everything
def test_ids_are_unique_and_references_resolve(name: str) -> None:
    ids = Counter(re.findall(r'\bid="([^"]*)"', page(name)))
    assert not [key for key, count in ids.items() if count > 1]
    used = re.findall(r'(?:url\(|href=")#([^")]+)', page(name)) + re.findall(r'aria-labelledby="([^"]*)"', page(name))
    assert used
    assert set(used) <= set(ids)
    labels = re.findall(r'role="region" tabindex="0" aria-label="([^"]*)"', page(name))
    assert len(labels) == len(set(labels))


@everything
def test_it_is_self_contained_and_small(name: str) -> None:
    html = page(name)
    assert len(html.encode()) <= 1_500_000
    assert not re.search(r"https?://|<script|<link|<iframe|<img|@import|\ssrc=|\son\w+=", html)
    assert not re.search(r"/(tmp|home|root)/", html)


@everything
def test_figures_take_ink_and_font_from_the_page(name: str) -> None:
    svgs = "".join(re.findall(r"<svg.*?</svg>", page(name), re.DOTALL))
    assert INK not in svgs
    assert PAPER not in svgs
    assert "font-family" not in svgs
    assert ("currentColor" in svgs) == (name != "empty")


@pytest.mark.parametrize("name", marked("sweep", DIAGNOSES, ["finished", "language"]))
def test_the_same_bytes_every_time(name: str) -> None:
    assert render(DIAGNOSES[name]()) == page(name)


def test_hostile_names_appear_literally() -> None:
    html = page("hostile")
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 5
    assert "<script" not in html
    assert "[red]x" in html
    assert "$x^{$" in html
    assert "{{ 7*7 }}" in html
    assert "a\ufffdb\ufffd[31mc\ufffd" in html
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", html)


def test_markup_in_a_name_would_be_noticed() -> None:
    spoiled = page("hostile").replace("&lt;script&gt;", "<script>", 1)
    assert "<script" in spoiled


def unmeasured(html: str) -> str:
    """The text of "What was not measured, and why", in small letters."""
    return text_of(html.partition('id="missing"')[2].partition("</section>")[0]).lower()


@pytest.mark.parametrize("part", marked("sweep", PARTS, ["smoothness", "training"]))
def test_a_part_without_any_number_still_renders(part: str) -> None:
    bare = replace(made.finished(), **{part: absent(PARTS[part], "left out for this test")})
    html = render(bare)
    assert "Left out for this test." in html
    assert f"{glossary.PARTS[part].lower()}, all of it." in unmeasured(html)


@pytest.mark.parametrize("part", marked("sweep", PARTS, ["noise"]))
def test_any_key_may_be_null_beside_any_other(part: str) -> None:
    """Keys are numbered in binary: each bit nulls the keys that have it, then those that lack it."""
    whole = getattr(made.finished(), part)
    keys = stored_keys(whole)
    for bit in range((len(keys) - 1).bit_length()):
        for set_ in (0, 1):
            gone = [key for k, key in enumerate(keys) if k >> bit & 1 == set_]
            lacking = replace(
                whole, **dict.fromkeys(gone), why={**whole.why, **{key: f"no {key} here" for key in gone}}
            )
            html = render(replace(made.finished(), **{part: lacking}, runs=(), vectors={}))
            listed = unmeasured(html)
            assert not [
                key for key in gone if glossary.named((part, key))[0].replace("R_L", "RL").lower() not in listed
            ]


def test_an_older_file_renders() -> None:
    body = made.finished().to_json()
    for part, key in (
        ("noise", "tensors"),
        ("training", "initial_loss"),
        ("verdict", "evidence"),
        ("smoothness", "points"),
    ):
        del body[part][key]
    del body["generalized_smoothness"], body["prediction"], body["schema"]
    html = render(Diagnosis.from_json(body))
    assert "Not in this file." in html
    assert "noise by tensor" in unmeasured(html)


def test_an_empty_object_renders() -> None:
    assert "No answer yet" in render(Diagnosis.from_json({}))


def test_what_was_not_measured_is_listed_in_words_with_its_reason() -> None:
    listed = unmeasured(page("finished"))
    assert "the mean curve never met the target. steps to the target loss of adagrad-norm." in listed
    assert "formed for d ≤ 2,000 alone. σ|hⱼₖ| beside the bracket." in listed
    assert "95% interval of noise density φ(σ); 95% interval of noise ‖σ‖₁;" in listed
    assert "not measured" not in page("finished").partition("<h1>")[2].partition("</header>")[0]


def test_one_name_for_a_value_and_its_interval_and_for_several_methods() -> None:
    base = made.finished()
    keys = ("validation_loss", "validation_loss_interval")
    gone = {**dict.fromkeys(keys), "why": dict.fromkeys(keys, "no samples are held out")}
    methods = {name: {**body, **gone} for name, body in (base.training.methods or {}).items()}
    listed = unmeasured(render(replace(base, training=replace(base.training, methods=methods))))
    assert "no samples are held out. held-out loss of sgd, adagrad, adagrad-norm and adam." in listed
    assert "interval of held-out loss" not in listed


@everything
def test_no_key_stands_on_the_page(name: str) -> None:
    """Parts that this version lacks are not named either."""
    html = page(name)
    assert not re.search(r"\b[a-z0-9]+_[a-z0-9_]*[a-z0-9]\b", unmeasured(html))
    assert NOT_YET not in html.lower()
    assert "prediction" not in text_of(html.partition('id="trust"')[2].partition("</section>")[0]).lower()


def test_warnings_and_the_positive_line() -> None:
    html = page("finished")
    assert "sgd&#39;s best learning rate, 10, is the largest tried" in html
    assert "<code>--learning-rates</code>" in html
    assert "No warnings" not in html
    assert "No warnings: no check of the measurements found anything wrong." in page("untrained")


def test_fewer_curvature_samples_are_said() -> None:
    assert "Measured on 512 of the 1,797 rows" in page("finished")
    base = made.finished()
    full = replace(
        base,
        task=replace(base.task, curvature_samples=1797, samples=1797),
        smoothness=replace(base.smoothness, samples=1797),
    )
    assert "Measured on 1" not in render(full)
    assert "Measured on 5" not in render(full)


def test_the_smoothness_of_a_draw_is_not_that_of_the_data() -> None:
    html = page("finished")
    assert "the smallest ‖L‖₁ of the 512 rows drawn lies between" in html
    assert "‖L‖₁ of all 1,797 rows 95% interval [" in html
    assert "curvature R_L of the draw" in html
    assert "Fitted on one half of the draw and measured on the other, ‖L‖₁ comes out 1.18× lower" in html
    base = made.finished()
    ends = (base.smoothness.l1_lower, base.smoothness.l1_upper)
    whole = {"interval": ends, "mean": None, "inflation": None, "samples": 1797, "rows": 1797, "products": 0}
    every = {**whole, "why": dict.fromkeys(("mean", "inflation"), ALL_ROWS)}
    full = replace(
        base,
        task=replace(base.task, curvature_samples=1797, samples=1797),
        smoothness=replace(base.smoothness, samples=1797, whole_data=every),
    )
    html = render(full)
    assert "drawn lies" not in html
    assert "of the draw" not in html
    assert "the bracket above, as all rows were measured" in html
    assert ALL_ROWS not in html.lower()


def test_what_a_draw_is_blind_to_is_on_the_page() -> None:
    """With the noise and with the evidence; where all rows were measured nothing is missing and nothing is said."""
    base = made.finished()
    drawn = replace(base.noise, exact=False, density_interval=(0.2, 0.5), samples=64, rare_rows=3.7 / 64, why={})
    html = render(replace(base, noise=drawn))
    assert "95% interval [0.20, 0.50], unless rows rarer than 1 in 17 carry the noise" in text_of(html)
    assert "<code>--samples 335</code> brings that to 1 in 100" in html
    every = replace(drawn, exact=True, samples=1797, rare_rows=None, why={"rare_rows": NONE_MISSED})
    html = render(replace(base, noise=every))
    assert "carry the noise" not in html
    assert NONE_MISSED not in html.lower()


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", "", html)).split())


def test_the_edge_of_stability_is_shown_for_both_rules() -> None:
    """eta 0.1 times the preconditioned sharpness for adagrad, eta 1 times lambda for sgd."""
    base = made.finished()
    table = table_of(page("finished"), "Edge of stability along the runs")
    own = {p["step"]: p["preconditioned"] for p in base.smoothness.points or () if p["method"] == "adagrad"}
    plain = {p["step"]: p["sharpness"] for p in base.smoothness.points or () if p["method"] == "sgd"}
    for scaled in (0.1 * own[500], plain[500]):
        assert f">{number(scaled, 3)}<" in table
    assert "η·‖P<sup>−½</sup>HP<sup>−½</sup>‖ with P = diag(√v) is 2.77, above 2: some direction is unstable" in page(
        "finished"
    )
    assert "Edge of stability" not in page("untrained")


def test_the_density_of_eigenvalues_is_drawn() -> None:
    html = page("finished")
    assert 'id="density-caption"' in html
    assert "The band holds the density of the exact eigenvalues under the same kernel with 95% at each point." in html
    assert "7 eigenvalues at the ends are known one by one." in html
    base = made.finished()
    older = dict(base.spectrum.eigenvalue_density or {})
    for key in ("lower", "upper", "resolution", "outliers"):
        del older[key]
    said = render(replace(base, spectrum=replace(base.spectrum, eigenvalue_density=older)))
    assert "The band is one standard error over the starts; it leaves out what the steps did not resolve." in said
    none = replace(base.spectrum, eigenvalue_density=None, why={"eigenvalue_density": "too large a model"})
    assert "Too large a model." in render(replace(base, spectrum=none))


def test_a_formed_spectrum_is_told_as_all_eigenvalues_and_rounding_as_zero() -> None:
    base = made.finished()
    formed = replace(
        base.spectrum,
        eigenvalues=[-4.8e-9, -1e-9, 2e-9, 0.1, 0.2],
        smallest=-4.8e-9,
        largest=0.2,
        rounding=4e-6,
        smallest_lower=-4.0048e-6,
        smallest_upper=3.9952e-6,
        largest_lower=0.2 - 4e-6,
        largest_upper=0.2 + 4e-6,
        confidence=1.0,
        steps=5,
    )
    html = render(replace(base, spectrum=formed))
    assert "0 are negative, 3 zero within rounding. They are all eigenvalues of the formed H." in html
    assert "Only the ends approximate eigenvalues" not in html
    assert "Ritz values, as drawn" not in html
    assert f"exact to ±{number(4e-6, 2)}, rounding" in re.sub(r"</?[a-z][^>]*>", "", html).replace("&nbsp;", " ")
    assert "eigenvalues from 0 (within rounding) to 0.2" in html
    assert "Only the ends approximate eigenvalues" in page("finished")


def table_of(html: str, caption: str) -> str:
    return html.partition(f"<caption>{caption}</caption>")[2].partition("</table>")[0]


def test_at_most_sixty_tensors_the_largest_first_and_the_rest_summed() -> None:
    names = re.findall(r"h\.(\d+)\.mlp", table_of(page("large"), "Noise by tensor"))
    assert names == [str(k) for k in range(299, 239, -1)]
    said = "The 60 largest are shown. The other 240 tensors have 79,999,920 parameters and ‖σ‖₁ 28,920 together."
    assert said in page("large")


def test_layers_come_before_tensors_in_both_sections() -> None:
    html = page("language")
    for title, key in (("Noise", "noise"), ("Smoothness", "smoothness")):
        assert html.index(f"<caption>{title} by layer</caption>") < html.index(f"<caption>{title} by tensor</caption>")
        found = re.findall(r'<th scope="row" role="rowheader"><bdi>([^<]*)', table_of(html, f"{title} by layer"))
        assert found == [
            "transformer.wte",
            "transformer.wpe",
            *(f"transformer.h.{k}" for k in range(12)),
            "transformer.ln_f",
        ]
        assert f'id="{key}-layers-caption"' in html
    assert "transformer.h.11.attn.c_attn.weight" in table_of(html, "Noise by tensor")
    assert "by layer" not in page("finished")
    assert 'id="noise-tensors-caption"' in page("finished")


def test_long_tables_of_tensors_are_folded_away() -> None:
    assert "<details><summary>Noise by tensor: 60 rows</summary>" in page("language")
    assert "<summary>Noise by tensor" not in page("finished")


def test_two_thousand_tensors_stay_small() -> None:
    html = render(made.language(166))
    assert len(made.gpt2_shapes(166)) > 1990
    assert len(html.encode()) <= 600_000
    for caption in ("Noise by layer", "Noise by tensor", "Smoothness by layer", "Smoothness by tensor"):
        assert 2 < table_of(html, caption).count("<tr") <= 61


def test_what_limits_the_answer_is_said() -> None:
    assert (
        "The answer is that of 32 of 52,002 sequences, each of at most 256 tokens; of runs of 40 steps in batches of "
        "4, which see 160 of the 915 sequences, with 3 orders of the batches; curvature was measured on 8 of these "
        "sequences."
    ) in page("language")
    assert "The answer is that of 1,024 of 1,797 rows; of runs of 500 steps in batches of 32" in page("finished")
    assert "What limits it" not in page("empty")


def test_long_lines_of_the_opening_are_whole() -> None:
    html = page("language")
    line = (made.language().task.understood or ("",))[0]
    assert len(line) > 200
    assert f"<li>{line}</li>" in html.partition('id="reproduce"')[2]
    assert f"measured in evaluation mode: {line}</b>" in html.partition('id="trust"')[2]


def test_sides_are_shown_by_more_than_colour() -> None:
    rows: list[dict[str, Any]] = [
        {"quantity": side, "value": 1.0, "interval": None, "neutral": "1", "says": "so", "side": side}
        for side in ("adagrad", "sgd", "neither", "undecided", "unknown")
    ]
    base = made.finished()
    html = render(replace(base, verdict=replace(base.verdict, evidence=rows)))
    for text in ("● AdaGrad", "■ SGD", "– neither", "? undecided", "not known"):
        assert text in html


def test_matplotlib_settings_are_left_alone() -> None:
    before = dict(matplotlib.rcParams)  # reading them settles the backend, which drawing to SVG never uses
    render(made.finished())
    assert dict(matplotlib.rcParams) == before


def test_other_matplotlib_settings_change_nothing() -> None:
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "lines.linewidth": 9}):
        assert render(made.finished()) == page("finished")


def test_rendering_loads_no_torch() -> None:
    code = (
        "import sys; from tests.reports import made; from reports import render; "
        "assert '<h1>' in render(made.finished()); "
        "assert not {'torch', 'transformers'} & set(sys.modules), 'torch was loaded'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_words_loads_no_numpy() -> None:
    code = (
        "import sys, reports.words.sentences, reports.words.numbers; "
        "assert not {'numpy', 'jinja2', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_stored_quantity_of_the_estimators_is_on_the_page() -> None:
    """A key that the schema gains must be shown or be named here."""
    shown_otherwise = {"tensors", "points", "eigenvalues", "control", "isotropic", "batch_scaling", "exact", "samples"}
    sources = "".join(p.read_text(encoding="utf-8") for p in _section_files())
    for part in ("noise", "hessian_diagonal", "smoothness", "spectrum", "generalized_smoothness"):
        keys = {f.name for f in fields(PARTS[part]) if f.metadata.get("stored", True)} - shown_otherwise - {"why"}
        assert not {key for key in keys if f'"{key}"' not in sources and f".{key}" not in sources}, part


def _section_files() -> list[Any]:
    from pathlib import Path

    import reports.page.sections

    return sorted(Path(reports.page.sections.__file__).parent.glob("*.py"))


def with_losses(loss: Callable[[int, int], float | None], steps: tuple[int, ...] = (0, 1, 10, 500)) -> Diagnosis:
    """The finished task with other losses, a function of (seed, step), for every method and rate."""
    base = made.finished()
    runs = [
        {**row, "loss": loss(row["seed"], row["step"]), "gradient_l1": 0.0, "gradient_l2": 0.0}
        for row in base.runs
        if row["step"] in steps
    ]
    return replace(base, runs=runs)


@pytest.mark.parametrize(
    "odd",
    [
        with_losses(lambda seed, step: 0.0),
        pytest.param(with_losses(lambda seed, step: 0.7), marks=pytest.mark.sweep),
        pytest.param(with_losses(lambda seed, step: -1.0 - step), marks=pytest.mark.sweep),
        with_losses(lambda seed, step: 1e-30 if step else 1e30),
        with_losses(lambda seed, step: None),
        with_losses(lambda seed, step: None if step and seed == 0 else 1.0),
        pytest.param(with_losses(lambda seed, step: 1.0, steps=(0,)), marks=pytest.mark.sweep),
        pytest.param(with_losses(lambda seed, step: 1.0 / (1 + step), steps=(0, 1)), marks=pytest.mark.sweep),
    ],
    ids=["zero", "constant", "negative", "extreme", "none", "one seed diverges", "start alone", "one step"],
)
def test_odd_losses_render(odd: Diagnosis) -> None:
    html = render(odd)
    assert "nan" not in re.sub(r"[a-z]+nan|nan[a-z]+", "", html)


def test_a_task_without_curvature_or_noise_renders() -> None:
    base = made.finished()
    zero = {kind: {name: 0 * value for name, value in named.items()} for kind, named in base.vectors.items()}
    gone = {"density": "the Hessian is 0", "density_rotated": "the Hessian is 0"}
    flat = replace(
        base,
        noise=replace(base.noise, l1=0.0, l2=0.0, density=None, why={"density": "there is no noise"}),
        smoothness=replace(base.smoothness, l1_lower=0.0, l1_upper=0.0, sharpness=0.0, density=None, why=gone),
        spectrum=replace(base.spectrum, largest=0.0, smallest=0.0, eigenvalues=[0.0] * 5),
        hessian_diagonal=replace(base.hessian_diagonal, abs_sum=0.0, abs_sum_interval=(0.0, 0.0)),
        vectors=zero,
    )
    html = render(flat)
    assert "there is no noise" in html
    assert "Ritz value" in html


def test_one_parameter_one_seed_renders() -> None:
    base = made.finished()
    one = replace(
        base,
        task=replace(base.task, parameters=1, seeds=1),
        training=replace(
            base.training, speedup_interval=None, speedup_seeds=(None,), why={"speedup_interval": "one seed"}
        ),
        verdict=replace(base.verdict, answer="undecided"),
        spectrum=replace(base.spectrum, eigenvalues=[2.0]),
        vectors=made.vectors({"w": (1,)}),
        runs=[row for row in base.runs if row["seed"] == 0],
    )
    html = render(one)
    assert "Each line is one run." in html
    assert "SGD is 1.9×, no interval" in html
