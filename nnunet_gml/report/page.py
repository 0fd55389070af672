"""The report as one file: sections, put into a page that needs nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup, escape

from nnunet_gml.planning.planned import put_file
from nnunet_gml.report.blocks import Section
from nnunet_gml.report.curves import curves
from nnunet_gml.report.headline import cards, sentence
from nnunet_gml.report.meetings import meetings
from nnunet_gml.report.methods import methods
from nnunet_gml.report.organs import organs
from nnunet_gml.report.origin import origin
from nnunet_gml.report.own_words import own_words
from nnunet_gml.report.sites import sites
from nnunet_gml.report.slices import slices
from nnunet_gml.report.study import Study
from nnunet_gml.report.traffic import traffic, troubles
from nnunet_gml.report.trust import trust

if TYPE_CHECKING:
    from pandas import DataFrame

    from nnunet_gml.comparison.predicted import Predicted
    from nnunet_gml.comparison.summary import Summary
    from peer_sync.site import Site

TEMPLATE, STYLE, SCRIPT = "page.html.j2", "page.css", "page.js"
SHOWN_CASES = 6


def write_report(
    path: Path,
    predicted: Sequence[Predicted],
    scores: DataFrame,
    summary: Summary,
    command: str,
    focus: str = "",
    shown_cases: int = SHOWN_CASES,
    site: Site | None = None,
) -> None:
    """Write a comparison as one HTML file: no network, light and dark, tables that sort, ready to print.

    Names of sites, cases and organs and sentences of peers are escaped; scripts other than the page's own
    do not run.

    Args:
        path: the file; replaced if it exists.
        predicted: what was compared.
        scores: one row per network, site, arm, case and class, see `nnunet_gml.comparison.measures.measure`.
        summary: what is made of them.
        command: that was typed, for the record.
        focus: the method to look at closely; empty: the one with the highest mean Dice of those that learn
            from peers, which the report says.
        shown_cases: how many cases to show slices of; 0 keeps images out of the file.
        site: at which the report is made; what it has heard of others is shown.

    Raises:
        ConfigError: the file cannot be written, or what was heard cannot be read.
    """
    own = scores[scores["trained_at"] == scores["site"]]
    study = Study([each for each in predicted if each.is_own], own, summary, command, focus, site)
    put_file(path, _page(study, _sections(study, shown_cases)).encode())


def _sections(study: Study, shown_cases: int) -> list[Section]:
    return [
        methods(study),
        sites(study),
        organs(study),
        slices(study, shown_cases),
        curves(study),
        meetings(study),
        trust(study),
        traffic(study),
        troubles(study),
        *own_words(study),
        origin(study),
    ]


def parted(words: str) -> Markup:
    """Escaped, and lines may end after an underscore: names of methods have no other place.

    >>> str(parted("a_<b>"))
    'a_<wbr>&lt;b&gt;'
    """
    return escape(words).replace("_", Markup("_<wbr>"))


def _page(study: Study, sections: Sequence[Section]) -> str:
    folder = files(__package__)
    texts = {name: (folder / name).read_text() for name in (TEMPLATE, STYLE, SCRIPT)}
    environment = Environment(
        autoescape=True,
        loader=DictLoader(texts),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["parted"] = parted
    digest = base64.b64encode(hashlib.sha256(texts[SCRIPT].encode()).digest()).decode()
    return environment.get_template(TEMPLATE).render(
        study=study,
        sentence=sentence(study),
        cards=cards(study),
        sections=sections,
        style=Markup(texts[STYLE]),  # noqa: S704 - our own file
        script=Markup(texts[SCRIPT]),  # noqa: S704 - our own file
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
    )
