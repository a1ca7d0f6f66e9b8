"""What the documentation promises is what the code has."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import diagnose
import estimators
from diagnose.settings import METHODS, Settings
from estimators.results import stored_keys
from reports.record.diagnosis import PARTS

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [path for package in ("diagnose", "estimators", "reports") for path in (ROOT / package).rglob("*.py")]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_warning_is_documented_and_every_documented_one_exists() -> None:
    marked = re.compile(r'(?:code=|Finding\(\s*)"([a-z0-9-]+)"')
    produced = {code for path in SOURCES for code in marked.findall(path.read_text("utf-8"))}
    documented = set(re.findall(r"^\| `([a-z0-9-]+)` \|", text("docs/warnings.md"), re.MULTILINE))
    assert produced == documented


def test_every_part_of_the_result_is_documented() -> None:
    missing = [part for part in PARTS if f"`{part}`" not in text("docs/result.md")]
    assert not missing


def test_every_method_has_its_update_in_the_documentation() -> None:
    rows = set(re.findall(r"^\| ([a-z-]+) \| [vwmβ]", text("docs/training.md"), re.MULTILINE))
    assert rows == set(METHODS)


def test_every_page_is_in_the_index_and_in_the_navigation() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert set(re.findall(r"^ +- ([\w-]+\.md)$", text("mkdocs.yml"), re.MULTILINE)) == pages
    assert set(re.findall(r"^- \[[^]]+\]\(([\w-]+\.md)\): \S", text("docs/index.md"), re.MULTILINE)) == pages - {
        "index.md"
    }


def test_every_public_name_is_in_the_reference() -> None:
    public = {f"{package.__name__}.{name}" for package in (diagnose, estimators) for name in package.__all__}
    listed = re.findall(r"^::: (\w+\.\w+)$", text("docs/reference.md"), re.MULTILINE)
    assert sorted([*listed, "diagnose.__version__"]) == sorted([*public, "estimators.results"])


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_number_is_measured_where_the_architecture_says() -> None:
    rows = re.findall(r"^\|.*\| `([\w/]+\.py)`: `(\w+)` \|$", text("ARCHITECTURE.md"), re.MULTILINE)
    assert len(rows) > 20
    for path, name in rows:
        defined = {getattr(node, "name", None) for node in ast.parse(text(path)).body}
        assert name in defined, f"{path} has no {name}"


def test_every_number_of_the_architecture_is_a_key_of_the_result() -> None:
    columns = re.findall(r"^\|[^|]*\|([^|]*)\|[^|]*\|$", text("ARCHITECTURE.md").replace("\\|", ""), re.MULTILINE)
    listed = re.findall(r"`(\w+)\.(\w+)`", "".join(columns))
    assert len(listed) > 20
    assert not [f"{part}.{key}" for part, key in listed if key not in stored_keys(PARTS[part])]


def test_every_room_is_in_the_architecture() -> None:
    named = set(re.findall(r"^\| `([\w/]+)` \|", text("ARCHITECTURE.md"), re.MULTILINE))
    rooms = {f"{path.parent.parent.name}/{path.parent.name}" for path in SOURCES if path.parent.parent.parent == ROOT}
    assert named == rooms


def test_ci_runs_the_commands_of_the_readme() -> None:
    commands = re.findall(r"^    (?:python3 -m venv|\.venv/bin/pip).*$", text("README.md"), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        last = command.split("&&")[-1].strip().removeprefix(".venv/bin/")
        assert re.sub("^python ", "", last) in text(".ci/run")


def test_every_option_has_its_sentence() -> None:
    assert all(item.metadata["help"] for item in fields(Settings))
