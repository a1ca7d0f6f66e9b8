"""Token frequency: names, findings and their place on the page."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from reports.page.deciles import by_tensor, finding, group_name, occurrences, silent
from reports.page.page import render
from reports.record.diagnosis import Diagnosis
from tests.markers import marked
from tests.reports import made

NAME = "transformer.wte.weight"


def group(decile: int, tokens: int, share: float | None, least: int = 1, most: int = 1, **more: Any) -> dict[str, Any]:
    body = {"tensor": "wte", "decile": decile, "tokens": tokens, "least": least, "most": most, "share": share}
    return {**body, "l1": share or 0.0, "mean": share or 0.0, "dead_fraction": 0.0, **more}


def with_deciles(rows: Any, why: str = "") -> Diagnosis:
    base = made.language(3)
    reason = {"token_deciles": why} if rows is None else {}
    return replace(
        base,
        noise=replace(base.noise, token_deciles=rows, why={**base.noise.why, **reason}),
        smoothness=replace(base.smoothness, token_deciles=rows, why={**base.smoothness.why, **reason}),
    )


def test_names() -> None:
    assert [group_name({"decile": k}) for k in (0, 1, 2, 3, 4, 10)] == [
        "never seen",
        "1st tenth (rarest)",
        "2nd tenth",
        "3rd tenth",
        "4th tenth",
        "10th tenth (most frequent)",
    ]
    assert occurrences(group(3, 5, 0.1, 4, 4)) == "4×"
    assert occurrences(group(3, 5, 0.1, 4, 1200)) == "4–1,200×"


def test_the_finding_names_shares_of_sum_rows_and_vocabulary() -> None:
    groups = [group(0, 41, 0.05, 0, 0), *(group(k, 6, 0.04) for k in range(1, 10)), group(10, 5, 0.62)]
    assert finding(groups, "the noise of wte") == (
        "The tenth of the tokens seen most often holds 62% of the noise of wte with 5.0% of its rows; "
        "41% of the vocabulary never occurs in the samples."
    )
    assert finding(groups[1:], "x").endswith("; every token occurs in the samples.")


def test_the_finding_of_few_tokens_of_none_and_of_no_sum() -> None:
    few = [group(0, 97, 0.1, 0, 0), group(1, 1, 0.2), group(2, 2, 0.7)]
    assert finding(few, "x").startswith("The tokens seen most often hold 70% of x with 2.0% of its rows")
    assert finding([*few[:2], group(2, 1, 0.7)], "x").startswith("The token seen most often holds 70%")
    assert finding([group(0, 5, 1.0, 0, 0)], "x") == "100% of the vocabulary never occurs in the samples."
    assert finding([group(1, 5, None)], "x") == "Every token occurs in the samples."


def test_rows_of_unseen_tokens() -> None:
    assert silent([group(1, 5, 0.5)], "wte", "σ") is None
    assert "have σ = 0" in str(silent([group(0, 5, 0.0, dead_fraction=1.0)], "wte", "σ"))
    alive = str(silent([group(0, 5, 0.1, dead_fraction=0.25)], "wte", "σ"))
    assert "75% of the coordinates of their rows have σ > 0" in alive
    assert "softmax" in alive


def test_output_rows_are_told_by_labels() -> None:
    out: dict[str, Any] = {"role": "output"}
    groups = [
        group(0, 41, 0.05, 0, 0, **out),
        *(group(k, 6, 0.04, **out) for k in range(1, 10)),
        group(10, 5, 0.62, **out),
    ]
    assert [group_name(one) for one in groups[:2]] == ["never a label", "1st tenth (rarest)"]
    assert finding(groups, "the noise of head") == (
        "The tenth of the tokens that are labels most often holds 62% of the noise of head with 5.0% of its rows; "
        "41% of the vocabulary is never a label."
    )
    assert finding(groups[1:], "x").endswith("; every token is a label somewhere.")
    assert finding([groups[0], group(1, 2, 0.7, **out)], "x").startswith(
        "The tokens that are labels most often hold 70%"
    )
    assert finding([groups[0], group(1, 1, 0.7, **out)], "x").startswith(
        "The token that is a label most often holds 70%"
    )
    assert silent([group(0, 5, 0.1, dead_fraction=0.25, **out)], "head", "σ") == (
        "In head tokens that are never a label are not silent: 75% of the coordinates of their rows have σ > 0. "
        "The softmax over the vocabulary touches every token in every sample."
    )
    assert "are never a label have σ = 0" in str(silent([group(0, 5, 0.0, dead_fraction=1.0, **out)], "head", "σ"))


def test_groups_of_each_tensor_in_order() -> None:
    """The tensors as they come, whichever has tokens that never occur."""
    rows = [group(10, 1, 0.5), {**group(0, 1, 0.5), "tensor": "other"}, group(1, 1, 0.5)]
    found = by_tensor(rows)
    assert list(found) == ["wte", "other"]
    assert [[one["decile"] for one in groups] for groups in found.values()] == [[1, 10], [0]]


def test_embedding_and_output_head_are_both_shown() -> None:
    rows = [
        group(k, 3, 0.1, k, k) | {"tensor": name, "role": role}
        for name, role in (("wte", "input"), ("lm_head.weight", "output"))
        for k in range(11)
    ]
    html = render(with_deciles(rows))
    for key, title in (("noise", "Noise"), ("smoothness", "Smoothness")):
        for place, (name, words, unseen) in enumerate(
            (
                ("wte", "seen most often", "never seen"),
                ("lm_head.weight", "that are labels most often", "never a label"),
            )
        ):
            drawn = html.partition(f'id="{key}-tokens-{place}-caption">')[2].partition("</figure>")[0]
            assert drawn.startswith(f"The tenth of the tokens {words} holds 10%")
            table = html.partition(f"<caption>{title} by token frequency: {name}</caption>")[2].partition("</table>")[0]
            assert unseen in table
            assert (">as a label<" in table) == (name == "lm_head.weight")
            assert table.count('<th scope="row"') == 11


def test_both_sections_have_figure_finding_and_table() -> None:
    html = render(made.language())
    for key, title in (("noise", "Noise"), ("smoothness", "Smoothness")):
        drawn = html.partition(f'id="{key}-tokens-0-caption">')[2].partition("</figure>")[0]
        assert drawn.startswith("The tenth of the tokens seen most often holds ")
        assert f"<caption>{title} by token frequency: {NAME}, as drawn</caption>" in drawn
        table = html.partition(f"<caption>{title} by token frequency: {NAME}</caption>")[2].partition("</table>")[0]
        assert table.count('<th scope="row"') == 11
        figure = html.partition(f'aria-labelledby="{key}-tokens-0-caption"')[2].partition("</svg>")[0]
        assert "never seen" in figure
        assert "1st tenth, " in figure
        assert "10th tenth, " in figure


def test_the_page_shows_the_stored_numbers() -> None:
    base = made.language()
    values = base.vectors["noise"][NAME]
    rows = base.noise.token_deciles
    assert rows is not None
    assert rows[-1]["l1"] == pytest.approx(values[-rows[-1]["tokens"] :].sum())
    html = render(base)
    assert f"holds {100 * rows[-1]['share']:.0f}% of the noise of {NAME}" in html
    assert f"{rows[0]['tokens']:,}" in html


@pytest.mark.parametrize(
    "means",
    marked(
        "sweep",
        [[0.0, 1.0, 2.0], [0.0, 1e-9, 1e9], [0.0, 0.0, 3.0], [5.0], [0.0, 0.0], [None, 1.0]],
        [[0.0, 1e-9, 1e9], [0.0, 0.0]],
    ),
    ids=["near", "far", "one alive", "one group", "all dead", "unknown"],
)
def test_any_means_render(means: list[float | None]) -> None:
    rows = [group(k, 3, 0.3, k, k, mean=mean) for k, mean in enumerate(means)]
    html = render(with_deciles(rows))
    assert ("noise-tokens-0" in html) == any(means)
    assert html.count("by token frequency: wte</caption>") == 2
    assert "nan" not in re.sub(r"[a-z]+nan|nan[a-z]+", "", html)


def test_several_embeddings_and_hostile_names_keep_ids_apart() -> None:
    rows = [group(k, 3, 0.1) | {"tensor": name} for name in ("a", made.SCRIPT) for k in range(11)]
    html = render(with_deciles(rows))
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert "<script" not in html
    assert "noise-tokens-1-caption" in html


def test_a_model_without_embedding_lacks_nothing() -> None:
    html = render(made.finished())
    assert "token_deciles" not in html
    assert "token frequency" not in html


def test_an_embedding_that_was_not_grouped_and_an_older_file_say_so() -> None:
    html = render(with_deciles(None, "the token embedding is frozen"))
    assert "The token embedding is frozen." in html
    assert "noise by how often a token occurs" in html.lower()
    body = made.language(3).to_json()
    del body["noise"]["token_deciles"]
    older = render(Diagnosis.from_json(body))
    assert "noise by how often a token occurs" in older.lower()
    assert "noise-tokens-0" not in older


def test_the_made_groups_cover_the_vocabulary() -> None:
    values = np.ones((50, 2))
    groups = made.deciles("w", values)
    assert sum(one["tokens"] for one in groups) == 50
    assert sum(one["share"] for one in groups) == pytest.approx(1)
