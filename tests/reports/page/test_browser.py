"""The page in a real browser: silent, offline, readable at both widths, everything in print."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reports.page.page import render
from tests.markers import marked
from tests.reports import made

CHROMIUM = Path("/usr/bin/chromium")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 600_000
"""Milliseconds for what takes some hundred: Chromium starts slowly on a busy machine."""
OPEN = "document.querySelectorAll('details').forEach(d => d.open = true)"
"""What is folded away has no size."""
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Debian's Chromium at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=str(CHROMIUM), args=QUIET, timeout=PATIENCE)
        yield chromium
        chromium.close()


PAGES = ["finished", "untrained", "hostile", "empty", "language", "large"]


@pytest.fixture(scope="module", params=marked("sweep", PAGES, ["finished", "hostile"]))
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / f"{request.param}.html"
    path.write_text(render(getattr(made, request.param)()), encoding="utf-8")
    return path


def opened(
    browser: Any, file: Path, width: int = 1280, height: int = 800, scheme: str = "light"
) -> tuple[Any, list[str], list[str]]:
    tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    tab.set_default_timeout(PATIENCE)
    messages: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(file.as_uri())
    return tab, messages, requests


def sideways(tab: Any) -> int:
    return int(tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_silent_offline_and_without_sideways_scroll(browser: Any, file: Path, width: int, scheme: str) -> None:
    tab, messages, requests = opened(browser, file, width, scheme=scheme)
    tab.evaluate(OPEN)
    assert requests == [file.as_uri()]
    assert messages == []
    assert sideways(tab) == 0
    tab.close()


@pytest.mark.parametrize("width", [400, 1280])
def test_tables_of_tensors_fold_names_and_never_scroll_sideways(browser: Any, file: Path, width: int) -> None:
    tab, _, _ = opened(browser, file, width)
    tab.evaluate(OPEN)
    wide = tab.evaluate(
        """[...document.querySelectorAll('table.stacked')].filter(table => {
            const box = table.parentElement.getBoundingClientRect();
            return [...table.querySelectorAll('th, td')].some(cell => {
                const r = cell.getBoundingClientRect();
                return getComputedStyle(cell.closest('tr').parentElement).clipPath === 'none'
                    && (r.right > box.right + 1 || r.left < box.left - 1 || cell.scrollWidth > cell.clientWidth + 1);
            });
        }).map(table => table.caption.textContent)"""
    )
    assert wide == []
    tab.close()


def test_a_narrow_screen_labels_each_number(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(render(made.language()), encoding="utf-8")
    labels = """[...document.querySelectorAll('[aria-labelledby=noise] .grid table.stacked td')].map(cell =>
        getComputedStyle(cell, '::before').content)"""
    tab, _, _ = opened(browser, path, 400)
    assert '"share of the sum"' in tab.evaluate(labels)
    tab.close()
    tab, _, _ = opened(browser, path, 1280)
    assert set(tab.evaluate(labels)) == {"none"}
    tab.close()


def test_a_wide_page_would_be_noticed(browser: Any, tmp_path: Path) -> None:
    wide = tmp_path / "wide.html"
    wide.write_text("<!DOCTYPE html><title>x</title><div style='width:3000px'>x</div>", encoding="utf-8")
    tab, _, _ = opened(browser, wide)
    assert sideways(tab) > 0
    tab.close()


@pytest.mark.parametrize(("width", "height"), [(400, 860), (1280, 800)])
def test_the_answer_and_its_figure_fit_the_first_screen(browser: Any, tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "page.html"
    path.write_text(render(made.finished()), encoding="utf-8")
    tab, _, _ = opened(browser, path, width, height)
    last = ".answer figcaption" if width < 600 else ".answer .overview"
    assert tab.evaluate(f"document.querySelector('{last}').getBoundingClientRect().bottom") <= height
    tab.close()


def test_a_figure_that_is_too_low_would_be_noticed(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(render(made.finished()).replace("<h1>", "<h1>" + "word " * 60), encoding="utf-8")
    tab, _, _ = opened(browser, path)
    assert tab.evaluate("document.querySelector('.answer .overview').getBoundingClientRect().bottom") > 800
    tab.close()


def test_without_training_the_assumptions_fit_the_first_screen(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(render(made.untrained()), encoding="utf-8")
    tab, _, _ = opened(browser, path)
    assert tab.evaluate("document.querySelector('.answer .assumptions').getBoundingClientRect().bottom") <= 800
    tab.close()


@pytest.mark.parametrize("name", ["finished", "untrained", "language"])
def test_five_screens_at_most_before_anything_is_opened(browser: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(render(getattr(made, name)()), encoding="utf-8")
    tab, _, _ = opened(browser, path)
    assert tab.evaluate("document.documentElement.scrollHeight") <= 5 * 800
    tab.evaluate(OPEN)
    assert tab.evaluate("document.documentElement.scrollHeight") > 5 * 800
    tab.close()


@pytest.mark.parametrize("width", [400, 1280])
def test_text_of_figures_stays_inside_them(browser: Any, file: Path, width: int) -> None:
    tab, _, _ = opened(browser, file, width)
    tab.evaluate(OPEN)
    outside = tab.evaluate(
        """[...document.querySelectorAll('svg')].flatMap(svg => {
            const box = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('text')].filter(text => {
                const r = text.getBoundingClientRect();
                return r.left < box.left - 1 || r.right > box.right + 1
                    || r.top < box.top - 1 || r.bottom > box.bottom + 1;
            }).map(text => text.textContent);
        })"""
    )
    assert outside == []
    tab.close()


@pytest.mark.parametrize("width", [400, 1280])
def test_text_of_figures_does_not_overlap(browser: Any, file: Path, width: int) -> None:
    tab, _, _ = opened(browser, file, width)
    tab.evaluate(OPEN)
    pairs = tab.evaluate(
        """[...document.querySelectorAll('svg')].flatMap(svg => {
            const texts = [...svg.querySelectorAll('text')].filter(t => t.textContent.trim());
            const boxes = texts.map(t => t.getBoundingClientRect());
            const found = [];
            for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
                const w = Math.min(boxes[i].right, boxes[j].right) - Math.max(boxes[i].left, boxes[j].left);
                const h = Math.min(boxes[i].bottom, boxes[j].bottom) - Math.max(boxes[i].top, boxes[j].top);
                if (w > 2 && h > 5) found.push([texts[i].textContent, texts[j].textContent]);
            }
            return found;
        })"""
    )
    assert pairs == []
    tab.close()


def test_print_is_light_and_shows_the_plotted_numbers(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(render(made.finished()), encoding="utf-8")
    tab, _, _ = opened(browser, path, scheme="dark")
    hidden = """[...document.querySelectorAll('details')].filter(d => {
        const held = d.querySelector('table, ul');
        return d.getBoundingClientRect().height < held.getBoundingClientRect().height;
    }).length"""
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    assert tab.evaluate(hidden) > 0
    assert tab.evaluate(paper) == "rgb(17, 20, 23)"
    tab.emulate_media(media="print")
    assert tab.evaluate(hidden) == 0
    assert tab.evaluate(paper) == "rgb(255, 255, 255)"
    tab.close()
