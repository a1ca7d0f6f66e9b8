"""One badly scaled column is noted; rare, standardised and merely uneven ones are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diagnose.inputs.opening import open_task
from diagnose.inputs.scales import badly_scaled
from diagnose.settings import Settings
from estimators.results import Finding

CODE = "badly-scaled-inputs"


def table(scales: list[float], rows: int = 200) -> Tensor:
    return torch.randn(rows, len(scales), generator=torch.Generator().manual_seed(0)) * torch.tensor(scales)


def noted(inputs: Tensor) -> tuple[Finding, ...]:
    return badly_scaled((inputs, torch.zeros(len(inputs))))


def test_a_column_far_above_the_others_is_noted() -> None:
    (finding,) = noted(table([1.0, 1.0, 500.0, 2.0, 1.0]))
    assert finding.code == CODE
    assert finding.found.startswith("column 3 of the inputs is ")
    assert 400 < float(finding.found.split(" is ")[1].split()[0]) < 600


@pytest.mark.parametrize("scales", [[1.0] * 5, [1.0, 0.1, 5.0, 2.0, 1.0], [1.0, 1.0, 0.001, 1.0], [1.0, 500.0]])
def test_uneven_columns_are_not(scales: list[float]) -> None:
    assert noted(table(scales)) == ()


def test_rare_features_and_empty_columns_are_not_small_ones() -> None:
    inputs = torch.ones(1000, 5)
    inputs[1:, 1:] = 0  # four features of one row in a thousand
    assert noted(inputs) == ()
    assert noted(torch.cat([inputs, torch.zeros(1000, 9)], 1)) == ()


def test_what_has_no_columns_is_left_alone() -> None:
    assert badly_scaled({"input_ids": torch.zeros(3, 4, dtype=torch.long)}) == ()
    assert noted(torch.ones(4, 3, 2)) == ()
    assert noted(torch.zeros(4, 6)) == ()
    assert noted(torch.ones(4, 5, dtype=torch.long)) == ()


def codes(model: str, data: Any, **settings: Any) -> set[str]:
    opened, _ = open_task(model, data, Settings(**settings))
    return {finding.code for finding in opened.findings}


def test_the_embedded_sets_are_clean_and_a_raw_table_is_not(tmp_path: Path) -> None:
    for name in ("iris", "wine", "digits", "breast-cancer"):
        assert CODE not in codes("softmax", name)
    raw = table([1.0, 1.0, 500.0, 1.0])
    lines = [
        " ".join([("+1", "-1")[k % 2], *(f"{j}:{value:.6g}" for j, value in enumerate(row.tolist(), 1))])
        for k, row in enumerate(raw)
    ]
    path = tmp_path / "raw.libsvm"
    path.write_text("\n".join(lines))
    assert CODE in codes("logreg", str(path))
    assert CODE not in codes("mlp", str(path))  # said of linear models alone
