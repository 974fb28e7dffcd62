"""What can be told of the page's accessibility without a browser."""

import re
from collections import Counter
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest

from tests.report.conftest import MakeRun
from tunewright.api import Run
from tunewright.report.build import build_report, build_versus

CSS = resources.files("tunewright.report").joinpath("page.css").read_text(encoding="utf-8")


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))


@pytest.fixture(scope="session")
def pages(rich_run: Path) -> list[str]:
    """The report, the page of two runs, and a notebook's piece."""
    versus, _ = build_versus(rich_run, rich_run)
    return [path.read_text(encoding="utf-8") for path in (rich_run / "report.html", versus)] + [
        Run(rich_run)._repr_html_()
    ]


def test_ids_are_unique_and_references_lead_somewhere(pages: list[str]) -> None:
    for html in pages:
        tags = Tags(html).all
        ids = Counter(attributes["id"] for _, attributes in tags if "id" in attributes)
        assert set(ids.values()) <= {1}
        for tag, attributes in tags:
            target = attributes.get("for" if tag in ("label", "output") else "href")
            assert target is None or target.removeprefix("#") in ids


def test_there_is_one_of_each_landmark_and_one_first_heading(pages: list[str]) -> None:
    names = Counter(tag for tag, _ in Tags(pages[0]).all)
    assert [names[tag] for tag in ("header", "nav", "main", "footer", "h1")] == [1] * 5
    assert dict(Tags(pages[0]).all)["html"]["lang"] == "en"


def test_headings_leave_no_level_out(pages: list[str]) -> None:
    for html in pages:
        levels = [int(tag[1]) for tag, _ in Tags(html).all if re.fullmatch(r"h[1-6]", tag)]
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))


def test_what_scrolls_can_be_reached_by_keyboard_and_has_a_name(pages: list[str]) -> None:
    for html in pages:
        for _, attributes in Tags(html).all:
            if "scroll" in (attributes.get("class") or "").split():
                assert attributes.get("tabindex") == "0"
                assert attributes.get("role") == "region"
                assert attributes.get("aria-label")


def test_every_input_has_a_label_and_every_drawing_a_name(pages: list[str]) -> None:
    tags = Tags(pages[0]).all
    labelled = {attributes.get("for") for tag, attributes in tags if tag == "label"}
    assert {attributes["id"] for tag, attributes in tags if tag == "input"} <= labelled
    for tag, attributes in tags:
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
        if tag == "th":
            assert attributes.get("scope") in ("col", "row", "colgroup")


def test_the_script_opens_the_search_box_and_nothing_depends_on_it(pages: list[str]) -> None:
    (box,) = (attributes for tag, attributes in Tags(pages[0]).all if attributes.get("class") == "find")
    assert "hidden" in box


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of `#rrggbb`."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_of_text_stand_out_in_light_and_dark(theme: int) -> None:
    blocks = [block for block in re.findall(r":scope \{(.*?)\}", CSS, re.DOTALL) if "--ink:" in block]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[theme]))
    texts = ("ink", "muted", "no-training", "soft-prompts", "fine-tuning", "outside", "better", "worse", "warn", "miss")
    for name in texts:
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    for name in ("ink", "muted"):
        assert contrast(colours[name], colours["wash"]) >= 4.5, name
    for name in ("ink", "warn"):
        assert contrast(colours[name], colours["warn-wash"]) >= 4.5, name
    assert contrast(colours["paper"], colours["ink"]) >= 4.5


def test_an_old_run_without_the_new_keys_still_renders(make_run: MakeRun) -> None:
    tags = Tags(build_report(make_run(methods=("majority", "lora"))).read_text(encoding="utf-8")).all
    sections = {attributes["id"] for tag, attributes in tags if tag == "section"}
    assert sections.isdisjoint({"slices", "calibration", "ledger", "checks", "requirements"})
