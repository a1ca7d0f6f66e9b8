"""The whole page: a stored diagnosis in, one self-contained HTML document out, the same bytes every time."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from reports.page import answer, ratios
from reports.page.methods import overview
from reports.page.sections import sections
from reports.page.sections.parts import sentence
from reports.record.diagnosis import Diagnosis
from reports.words.numbers import percent
from reports.words.sentences import best_line, following, headline, limits, printable, reason
from reports.words.unmeasured import missing

_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def render(diagnosis: Diagnosis) -> str:
    """The page as HTML: no script, no request to anywhere, no clock.

    Works for any diagnosis that :meth:`Diagnosis.from_json` accepts; what is null is shown as not measured.
    """
    losses, strip, assumed = answer.losses(diagnosis), ratios.strip(diagnosis), answer.assumptions(diagnosis)
    first = "losses" if losses else "assumptions" if assumed else "strip" if strip else ""
    notes = [w for w in diagnosis.warnings if w.severity == "note"]
    html = (
        pages()
        .get_template("page.html")
        .render(
            diagnosis=diagnosis,
            headline=headline(diagnosis),
            best=best_line(diagnosis),
            first=first,
            losses=losses,
            overview=overview(diagnosis),
            assumptions=assumed,
            statuses=answer.statuses(assumed),
            strip=strip,
            rows=answer.why(diagnosis),
            by_target=answer.by_target(diagnosis),
            bounds=ratios.bounds_table(diagnosis),
            limits=limits(diagnosis),
            following=following(diagnosis),
            prediction=answer.prediction_table(diagnosis),
            warnings=[w for w in diagnosis.warnings if w.severity != "note"],
            notes=notes,
            sections=sections(diagnosis),
            missing=missing(diagnosis),
            reproduction=answer.reproduction(diagnosis),
            reason=reason,
        )
    )
    return _FORBIDDEN.sub("\ufffd", html)


@cache
def pages() -> Environment:
    """The templates of this package: everything escaped, an unknown name an error."""
    made = Environment(
        loader=PackageLoader("reports.page", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"prose": prose, "percent": percent, "printable": printable, "sentence": sentence}
    return made


def prose(text: object) -> Markup:
    """Escaped text: `backticks` become code, R_L and λmax subscripts, P^−½ a power; an interval stays on one line."""
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    html = re.sub(r"\bR_L\b", "R<sub>L</sub>", html)
    html = re.sub(r"\^(−½)", r"<sup>\1</sup>", html)
    html = re.sub(r"λ(max|min)\b", r"λ<sub>\1</sub>", html)
    return Markup(re.sub(r"\[([−0-9.,]+), ([−0-9.,]+)\]", "[\\1,\u00a0\\2]", html))
