"""The page in a real Chromium: nothing goes wrong, nothing leaves it, and what can be pressed works.

Skipped where there is no browser. `CHROMIUM` names one that is not on the path, `AXE` the file `axe.min.js` of the
package axe-core for the test of accessibility.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from tests.report.conftest import MakeRun
from tunewright.api import Run
from tunewright.report.build import build_report, build_versus

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
AXE = os.environ.get("AXE")

Scheme = Literal["light", "dark"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path; name one in CHROMIUM"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


class Opened:
    """A page with what it complained of and what it asked for."""

    def __init__(self, browser: "Browser", path: Path, *, width: int = 1280, scheme: Scheme = "light", js: bool = True):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=js
        )
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())


def test_nothing_goes_wrong_and_nothing_leaves_the_page(browser: "Browser", rich_run: Path) -> None:
    path = rich_run / "report.html"
    opened = Opened(browser, path)
    opened.page.locator("#find").fill("order")
    opened.page.locator("details").first.click()
    assert opened.complaints == []
    assert opened.requests == [path.as_uri()]


def test_the_policy_stops_a_script_and_a_request(browser: "Browser", rich_run: Path, tmp_path: Path) -> None:
    html = (rich_run / "report.html").read_text(encoding="utf-8")
    bad = '<script>document.title = "gone"</script><img src="https://example.org/x.png">'
    path = tmp_path / "bad.html"
    path.write_text(html.replace("</main>", bad + "</main>"), encoding="utf-8")
    opened = Opened(browser, path)
    assert opened.page.title() != "gone"
    assert len(opened.complaints) == 2
    assert all("Content Security Policy" in complaint for complaint in opened.complaints)


def test_text_of_the_user_does_nothing(browser: "Browser", make_run: MakeRun) -> None:
    run = make_run(hostile=True, methods=("zero-shot", "lora"))
    path = build_report(run)
    opened = Opened(browser, path)
    opened.page.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
    assert opened.complaints == []
    assert opened.requests == [path.as_uri()]
    assert opened.page.locator("img").count() == 0


def test_charts_are_drawn(browser: "Browser", rich_run: Path) -> None:
    page = Opened(browser, rich_run / "report.html").page
    charts = page.locator("figure svg[role=img]:visible")
    assert charts.count() == 8  # frontier, families, three panels, confusion, reliability, risk
    for index in range(charts.count()):
        box = charts.nth(index).bounding_box()
        assert box is not None
        assert box["width"] > 150
        assert box["height"] > 100
        assert charts.nth(index).locator("path").count() > 2


def test_the_reader_chooses_the_cost(browser: "Browser", rich_run: Path) -> None:
    page = Opened(browser, rich_run / "report.html").page
    seen = {}
    for label in page.locator(".axes label").all():
        label.click()
        shown = page.locator(".axes figure svg:visible")
        assert shown.count() == 1
        seen[label.inner_text()] = shown.get_attribute("aria-label")
    assert list(seen) == ["Price of requests", "Cost of ownership", "Latency", "Bytes stored", "Training time"]
    assert len(set(seen.values())) == 5
    page.keyboard.press("ArrowLeft")
    assert page.locator("#axis-stored").is_checked()
    assert page.locator(".panel-stored svg:visible").count() == 1


@pytest.mark.parametrize("js", [True, False])
def test_the_search_box_filters_and_hides_without_scripts(browser: "Browser", rich_run: Path, js: bool) -> None:
    page = Opened(browser, rich_run / "report.html", js=js).page
    box = page.locator("#find")
    assert box.is_visible() == js
    if not js:
        return
    rows = page.locator("#rows tbody tr")
    texts = [text.lower() for text in rows.all_text_contents()]
    wanted = [index for index, text in enumerate(texts) if "guten" in text and "invoice" in text]
    assert 0 < len(wanted) < len(texts)
    box.fill("Guten INVOICE")
    assert [index for index, row in enumerate(rows.all()) if row.is_visible()] == wanted
    assert page.locator("#found").inner_text() == f"{len(wanted)} of {len(texts)} rows"
    box.fill("")
    assert rows.nth(0).is_visible()
    assert not rows.last.is_visible()


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_width_makes_the_page_scroll_sideways(browser: "Browser", rich_run: Path, width: int) -> None:
    page = Opened(browser, rich_run / "report.html", width=width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_first_screen_holds_the_answer_and_the_command(browser: "Browser", make_run: MakeRun) -> None:
    page = Opened(browser, build_report(make_run(methods=("majority", "few-shot", "lora")))).page
    for wanted in ("h1", ".facts", ".next pre"):
        box = page.locator(wanted).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 900


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.skipif(AXE is None, reason="AXE does not name axe.min.js of the package axe-core")
def test_axe_finds_nothing(browser: "Browser", rich_run: Path, tmp_path: Path, scheme: Scheme) -> None:
    assert AXE is not None
    notebook = tmp_path / "notebook.html"
    head = "<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>notebook</title></head><body><main>"
    notebook.write_text(head + Run(rich_run)._repr_html_() + "</main></body></html>", encoding="utf-8")
    other = shutil.copytree(rich_run, tmp_path / "rich")
    shutil.copytree(rich_run, tmp_path / "later")
    versus, _ = build_versus(other, tmp_path / "later")
    for path in (rich_run / "report.html", versus, notebook):
        for width in (390, 1280):
            page = Opened(browser, path, scheme=scheme, width=width).page
            page.evaluate(Path(AXE).read_text(encoding="utf-8"))
            found = page.evaluate("axe.run().then((found) => found.violations)")
            told = [(each["id"], each["impact"], each["nodes"][0]["html"][:120]) for each in found]
            assert told == [], path.name


def test_a_notebook_keeps_its_own_look(browser: "Browser", rich_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "notebook.html"
    other = "<p id=cell>A cell</p><table><tr><td id=theirs>1</td></tr></table>"
    path.write_text(f"<!DOCTYPE html><title>n</title><body>{other}", encoding="utf-8")
    style = "JSON.stringify(['cell', 'theirs'].map((id) => ({...getComputedStyle(document.getElementById(id))})))"
    before = Opened(browser, path).page.evaluate(style)
    path.write_text(f"<!DOCTYPE html><title>n</title><body>{other}{Run(rich_run)._repr_html_()}", encoding="utf-8")
    opened = Opened(browser, path)
    assert opened.page.evaluate(style) == before
    assert opened.complaints == []
    assert opened.page.locator(".tunewright h1").inner_text().startswith("Recommended: lora")
    background = "getComputedStyle(document.querySelector('.tunewright')).backgroundColor"
    assert opened.page.evaluate(background) == "rgb(255, 255, 255)"
