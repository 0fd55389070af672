"""The report in a real browser: it shows, sorts, follows light and dark, prints, and asks for nothing."""

from __future__ import annotations

import shutil

import pytest
from report_kit import ORGANS, OURS, compare

from nnunet_gml.report.page import write_report

CHROMIUM = shutil.which("chromium")
PRINTED_PX = 694
"""An A4 page within its margins, 184 mm at 96 pixels an inch."""
WHOLE = ".panel, figure.row, .keys, .cards li, tr, thead, p.lead, figcaption"
TORN = """names => [...document.querySelectorAll(names)]
  .filter(each => getComputedStyle(each).breakInside !== 'avoid').map(each => each.tagName)"""
LONELY = """() => [...document.querySelectorAll('h2, h3, h4, p.lead, .keys, caption, thead')]
  .filter(each => getComputedStyle(each).breakAfter !== 'avoid').map(each => each.tagName)"""
OVERLAPPING = """() => [...document.querySelectorAll('.panel')].flatMap(panel => {
  const box = panel.getBoundingClientRect();
  return [...panel.querySelectorAll('svg text')].map(each => [each.textContent, each.getBoundingClientRect()])
    .filter(([, at]) => at.bottom > box.bottom + 2 || at.left < -1).map(([words]) => words);
})"""
TOO_WIDE = """width => [...document.querySelectorAll('body *')]
  .filter(each => each.getBoundingClientRect().right > width + 1 && !each.closest('defs, .clipped'))
  .map(each => each.tagName + ' ' + (each.textContent || '').trim().slice(0, 40))"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Three sites with long names and four methods: as wide as usual ones are."""
    folder = tmp_path_factory.mktemp("report")
    arms = ("individual", OURS, "gossip_average_of_all", "federated_averaging")
    found = compare(
        folder,
        ("university-hospital-north", "east", "south"),
        arms,
        (*ORGANS[:4], "submandibular-gland-left"),
    )
    path = folder / "report.html"
    write_report(path, found.predicted, found.scores, found.summary, "nnunet-gml compare run")
    return path


@pytest.fixture(scope="module")
def browser():
    """Headless; it may run as root in a container."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, report):
    """The opened report; what the console said and what was asked for is in ``page.heard``."""
    opened = browser.new_page(color_scheme="light")
    opened.heard = []
    opened.on("console", lambda message: opened.heard.append(message.text))
    opened.on("pageerror", lambda error: opened.heard.append(str(error)))
    opened.on("request", lambda request: opened.heard.append(request.url))
    opened.goto(report.as_uri())
    yield opened
    opened.close()


def test_it_opens_without_a_word_to_console_or_network(page, report):
    """The file itself, and the images that it carries, are all that is asked for."""
    assert [each for each in page.heard if not each.startswith("data:")] == [report.as_uri()]
    assert page.locator("h2").count() == 10
    assert report.stat().st_size < 5e6


def test_a_click_sorts_and_a_second_one_turns_it_round(page):
    """Numbers as numbers: the sites' order really changes; the line of all sites stays below."""
    table = page.locator("#sites table").first
    names = table.locator("tbody th")
    before = names.all_inner_texts()

    table.locator("thead button").nth(1).click()
    rising = table.locator("tbody td:nth-child(2)").evaluate_all(
        "cells => cells.map(c => Number(c.dataset.value))"
    )
    table.locator("thead button").nth(1).click()
    falling = table.locator("tbody td:nth-child(2)").evaluate_all(
        "cells => cells.map(c => Number(c.dataset.value))"
    )

    assert rising == sorted(rising) and falling == rising[::-1] and rising != falling
    assert names.all_inner_texts() == before[::-1]
    assert table.locator("tfoot th").inner_text() == "all sites"


def test_text_is_sorted_as_text(page):
    """By name."""
    table = page.locator("#sites table").first
    table.locator("thead button").first.click()

    assert table.locator("tbody th").all_inner_texts() == ["east", "south", "university-hospital-north"]


def test_light_and_dark_differ_and_the_switch_wins(page, browser, report):
    """By what the browser asks for, and by a click."""
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = browser.new_page(color_scheme="dark")
    dark.goto(report.as_uri())

    light, in_dark = page.evaluate(ground), dark.evaluate(ground)
    page.click("#theme")
    dark.click("#theme")

    assert light == "rgb(255, 255, 255)" != in_dark
    assert (page.evaluate(ground), dark.evaluate(ground)) == (in_dark, light)
    dark.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_a_phone_and_a_laptop(page, width):
    """What is wider scrolls in its own frame; the page does not."""
    page.set_viewport_size({"width": width, "height": 800})

    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_prints_on_pages_without_cutting_anything(page, tmp_path):
    """Light, several pages, nothing beyond the right edge."""
    page.set_viewport_size({"width": PRINTED_PX, "height": 1000})
    page.click("#theme")
    page.emulate_media(media="print")

    assert page.evaluate(TOO_WIDE, PRINTED_PX) == []
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 36, 48)"
    printed = page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert 6 < printed.count(b"/Type /Page\n") < 15


def test_nothing_is_torn_in_two_on_paper(page):
    """Pictures, rows and legends stay whole, no heading stands alone at a page's foot, heads are repeated.

    Chromium leaves buttons empty in heads that it repeats: in print there are only their words.
    """
    page.emulate_media(media="print")

    assert page.evaluate(TORN, WHOLE) == []
    assert page.evaluate(LONELY) == []
    assert page.evaluate("getComputedStyle(document.querySelector('figcaption')).breakBefore") == "avoid"
    assert page.evaluate("getComputedStyle(document.querySelector('thead button')).display") == "contents"


@pytest.mark.parametrize("media", ["screen", "print"])
def test_no_words_leave_their_picture(page, media):
    """Long names of methods, organs and sites: cut in time, with room below for those that are turned."""
    page.set_viewport_size({"width": PRINTED_PX, "height": 1000})
    page.emulate_media(media=media)

    assert page.evaluate(OVERLAPPING) == []


def test_names_of_methods_are_parted_where_they_may_be(page):
    """After an underscore; what is read and copied is the name."""
    head = page.locator("#sites thead button").nth(3)

    assert head.inner_html() == "gossip_<wbr>average_<wbr>of_<wbr>all"
    assert head.text_content() == "gossip_average_of_all"


def test_a_strangers_script_would_not_run(browser, report, tmp_path):
    """Even if a name had slipped through as markup: the page's policy knows its own script only."""
    path = tmp_path / "broken.html"
    path.write_text(
        report.read_text().replace("<main>", "<main><script>document.title = 'taken over'</script>")
    )
    opened = browser.new_page()
    opened.goto(path.as_uri())

    assert "taken over" not in opened.title()
    opened.close()
