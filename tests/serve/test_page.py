"""The page at `/`: what it shows, and in a real Chromium what it does."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import tiny
from tests.serve.live import ABOUT, Live, kinds, serving
from tunewright.adapters import folder
from tunewright.releases.entries import Promotion, Version
from tunewright.releases.state import State
from tunewright.serve.keys import Keys, add_key
from tunewright.serve.metrics import Figures
from tunewright.serve.page import TaskView, policy, render
from tunewright.serve.registered import Registered

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def version(number: int, **changed: str) -> Version:
    texts = {"folder": "/f", "adapter_sha256": "a" * 64, "base_name": "b", "base_sha256": "c", "added_by": "ada"}
    return Version(task="tickets", version=number, added_at="2026-01-02T03:04:05", measured=None, **(texts | changed))


def test_what_it_shows() -> None:
    view = TaskView(
        name="tickets",
        live=2,
        shadow=3,
        shadow_share=0.25,
        versions=(version(1), version(2), version(3)),
        figures=Figures(requests=7, failed=1, rows=12, mean_ms=3.14159),
    )
    page = render([view, TaskView(name="plain", live=1)], num_tasks=300, waiting_rows=1, keeps_feedback=True)
    assert "300 tasks from one server" in page
    assert "The first 2 of 300" in page
    assert "1 row waiting" in page
    assert '<td class="n">7</td><td class="n">1</td><td class="n">12</td><td class="n">3.1</td>' in page
    assert "3, 25%" in page
    asked = [line for line in page.splitlines() if "data-version" in line]
    assert [line.split('data-version="')[1][0] for line in asked] == ["2", "3", "1", "1"]  # the live one first
    assert render([], num_tasks=0, waiting_rows=0, keeps_feedback=False).count("<article") == 0


def test_nothing_of_the_registry_is_markup() -> None:
    change = Promotion(
        task="t",
        version=1,
        previous=None,
        action="promote",
        at="2026-01-02T03:04",
        who=HOSTILE,
        reason=HOSTILE,
        forced=False,
    )
    view = TaskView(name="t", live=1, versions=(version(1, added_by=HOSTILE),), history=(change,))
    page = render([view], num_tasks=1, waiting_rows=0, keeps_feedback=True)
    assert HOSTILE not in page
    assert page.count("<script>") == 1
    assert page.count("&lt;/script&gt;&lt;script&gt;") == 3


def test_it_loads_nothing_from_elsewhere() -> None:
    page = render([], num_tasks=0, waiting_rows=0, keeps_feedback=True)
    assert "http:" not in page
    assert "https:" not in page
    assert "unsafe" not in policy()
    assert "default-src 'none'" in policy()


@pytest.fixture(scope="module")
def served(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A registry with a task of two versions and one of one."""
    home = tmp_path_factory.mktemp("page")
    made = kinds(tiny.encoder(tiny_folder("bert")), 3)
    state = State.open(str(home / "state.db"))
    for task, name in (("tickets", "soft"), ("tickets", "head"), ("mail", "lora")):
        folder.save(made[name]().with_about(ABOUT), home / name)
        state.add(task, home / name)
    state.promote("tickets", 1, reason="the first", expected=None, who="ada")
    state.promote("mail", 1, reason="the first", expected=None, who="ada")
    with serving(Registered(state), state=state) as live:
        yield live
    state.close()


def cells(page: str, task: str) -> list[str]:
    """What stands in a task's row: live version, requests, failed, rows, mean ms."""
    row = page.split(f'<th scope="row">{task}</th>')[1].split("</tr>", maxsplit=1)[0]
    return [cell.split("</td>")[0] for cell in row.split('<td class="n">')[1:]]


def test_figures_follow_the_requests(served: Live) -> None:
    with served.client() as client:
        first = client.get("/")
        for text in ("soup", "train"):
            assert client.post("/v1/tasks/mail/predict", json={"text": text}).status_code == 200
        assert client.post("/v1/tasks/mail/predict", json={"text": ""}).status_code == 400
        after = cells(client.get("/").text, "mail")
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    before = cells(first.text, "mail")
    assert after[0] == before[0] == "1"
    requests, failed, rows = (int(b) - int(a) for a, b in zip(before[1:4], after[1:4], strict=True))
    assert (requests - failed, rows) == (2, 2)
    assert float(after[4]) > 0


def test_any_version_can_be_asked(served: Live) -> None:
    """The same as the version gives when it is live; and an id that says which answered."""
    state = served.service.state
    assert state is not None
    with served.client() as client:
        one, two = (
            client.post("/v1/tasks/tickets/predict", json={"text": "soup and a train", "version": number}).json()
            for number in (1, 2)
        )
        live = client.post("/v1/tasks/tickets/predict", json={"text": "soup and a train"}).json()
        missing = client.post("/v1/tasks/tickets/predict", json={"text": "soup", "version": 9})
    assert (one["version"], two["version"], live["version"]) == (1, 2, 1)
    assert one["answers"][0]["probabilities"] == pytest.approx(live["answers"][0]["probabilities"], abs=1e-6)
    assert one["answers"][0]["probabilities"] != pytest.approx(two["answers"][0]["probabilities"], abs=1e-3)
    assert "-2-tickets" in two["request_id"]
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "version_not_found"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


def opened(browser: "Browser", live: Live, **how: object) -> "tuple[Page, list[str]]":
    """The page, and all it complains of or asks elsewhere."""
    page = browser.new_context(**how).new_page()  # type: ignore[arg-type]
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: complaints.extend([asked.url] * (not asked.url.startswith(live.url))))
    page.goto(live.url)
    return page, complaints


in_browser = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path; name one in CHROMIUM"),
]


class TestInABrowser:
    pytestmark = in_browser

    def test_answers_side_by_side_and_feedback_that_is_kept(self, browser: "Browser", served: Live) -> None:
        page, complaints = opened(browser, served)
        page.locator("#text").fill("soup for the choir")
        for box in page.locator("input[data-task]").all():
            box.check()
        page.get_by_role("button", name="Ask").click()
        page.locator("article .say").nth(2).wait_for()
        cards = page.locator("article")
        assert [card.locator("h3").inner_text() for card in cards.all()] == ["mail@1", "tickets@1", "tickets@2"]
        shown = cards.nth(2).locator(".label").inner_text()
        with served.client() as client:
            asked = {"text": "soup for the choir", "version": 2}
            answer = client.post("/v1/tasks/tickets/predict", json=asked).json()["answers"][0]
        assert shown == answer["label"]
        assert cards.nth(2).locator(".share").count() == len(answer["probabilities"])
        state = served.service.state
        assert state is not None
        cards.nth(0).get_by_role("button", name="wrong").click()
        page.get_by_text("kept: wrong").wait_for()
        page.get_by_label("keep the text with my feedback").check()
        cards.nth(2).get_by_label("right answer").fill("music")
        cards.nth(2).get_by_role("button", name="correct").click()
        page.get_by_text("kept: corrected").wait_for()
        (mail,), (tickets,) = state.feedback("mail"), state.feedback("tickets")
        assert (mail.verdict, mail.text, mail.version) == ("wrong", None, 1)
        assert (tickets.corrected, tickets.text, tickets.version) == ("music", "soup for the choir", 2)
        assert tickets.answer == shown
        assert complaints == []

    def test_figures_are_fresh_without_a_new_page(self, browser: "Browser", served: Live) -> None:
        page, complaints = opened(browser, served)
        page.locator("#text").fill("half a word")
        before = page.locator("#figures").inner_text()
        with served.client() as client:
            client.post("/v1/tasks/mail/predict", json={"text": "soup"})
        page.wait_for_function("before => document.getElementById('figures').innerText !== before", arg=before)
        assert page.locator("#text").input_value() == "half a word"
        assert complaints == []

    def test_an_error_is_shown(self, browser: "Browser", served: Live) -> None:
        page, _ = opened(browser, served)
        page.locator("#text").fill("   ")
        page.locator("input[data-task]").first.check()
        page.get_by_role("button", name="Ask").click()
        page.locator("article .bad").first.wait_for()
        assert page.locator("article .bad").first.inner_text()

    def test_columns_and_candidates_are_sent(self, browser: "Browser", served: Live) -> None:
        page, _ = opened(browser, served)
        page.locator("#text").fill("soup")
        page.locator("summary", has_text="Further columns").click()
        page.locator("#fields").fill("place: the inn: old\n\n day:Monday")
        page.locator('input[data-task="mail"]').check()
        with page.expect_request("**/mail/predict") as columns:
            page.get_by_role("button", name="Ask").click()
        assert json.loads(str(columns.value.post_data))["fields"] == {"place": "the inn: old", "day": "Monday"}
        page.locator("#answers .bad", has_text="takes no `fields`. Got day, place.").first.wait_for()
        page.locator("#choices").fill("bread\n cake ")
        with page.expect_request("**/mail/predict") as candidates:
            page.get_by_role("button", name="Ask").click()
        assert json.loads(str(candidates.value.post_data))["choices"] == ["bread", "cake"]
        page.locator("#answers .bad", has_text="takes none in `choices`. Got 2.").first.wait_for()

    def test_a_key_is_asked_for_and_kept(self, browser: "Browser", task_folders: list[str], tmp_path: Path) -> None:
        key = add_key(tmp_path / "keys.json", "ann", tasks=["head-0"], rows_per_minute=None)
        with serving(task_folders[:2], keys=Keys.read(tmp_path / "keys.json")) as live:
            page, _ = opened(browser, live)
            for given in ("wrong", key):
                page.get_by_label("Key").fill(given)
                page.get_by_role("button", name="Go on").click()
                if given == "wrong":
                    page.get_by_text("no valid key").wait_for()
            page.locator("input[data-task]").first.check()
            assert page.locator("input[data-task]").count() == 1, "tasks that the key is not for"
            page.locator("#text").fill("soup")
            page.get_by_role("button", name="Ask").click()
            page.locator("article .label").wait_for()
            page.reload()
            page.locator("#ask").wait_for()
            assert key not in page.content()

    @pytest.mark.parametrize("width", [360, 1280])
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_it_fits(self, browser: "Browser", served: Live, width: int, scheme: str) -> None:
        page, complaints = opened(browser, served, viewport={"width": width, "height": 800}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 22, 27)")
        assert complaints == []
