"""The whole page, judged from outside: what a browser, a reader and an attacker would make of it."""

import base64
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.report.conftest import change, result
from tunewright.errors import RunError
from tunewright.report.build import build_report

MakeRun = Callable[..., Path]

VOID = {"meta", "col", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements in order, with their text; fails on a tag that is closed wrongly."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.cells: dict[tuple[str, str], list[str]] = {}
        """(candidate, field) -> exact values in that cell of the table."""
        self.candidate = self.field = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self.open.append(tag)
        if tag == "tr":
            self.candidate = attributes.get("data-candidate") or ""
        if tag in ("td", "th"):
            self.field = attributes.get("data-field") or ""
        if tag == "data" and self.candidate and self.field:
            self.cells.setdefault((self.candidate, self.field), []).append(attributes["value"] or "")

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.get_starttag_text() is not None and tag in self.open:
            assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def html_of(run: Path) -> str:
    return build_report(run).read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_says_what_was_decided(make_run: MakeRun) -> None:
    run = make_run()
    path = build_report(run)
    page = Page(path.read_text(encoding="utf-8"))
    assert path == run / "report.html"
    decision = result(run)["decision"]
    for told in (decision["reason"], decision["verdict"], "Recommended: lora", "about 2,140 test rows would settle it"):
        assert told in page.text
    assert {"no training", "soft prompts", "fine-tuning"} <= {line.strip() for line in re.split("[\n,]", page.text)}
    assert [value["id"] for tag, value in page.tags if tag == "section"] == [
        "quality",
        "candidates",
        "pairs",
        "tuning",
        "classes",
        "rows",
        "data",
        "method",
    ]


def test_every_number_of_the_table_is_the_number_in_the_file(make_run: MakeRun) -> None:
    run = make_run()
    cells = Page(html_of(run)).cells
    for candidate in result(run)["candidates"]:
        if candidate["status"] != "ok":
            continue
        name, cost = candidate["id"], candidate["cost"]
        wanted = {key: [value] for key, value in cost.items() if key != "latency_ms"}
        wanted["latency"] = [cost["latency_ms"]]
        wanted |= {split: [candidate[split][key] for key in ("value", "low", "high")] for split in ("dev", "test")}
        wanted |= {"seeds": [seed["test"] for seed in candidate["seeds"]], "trials": [candidate["trials"]]}
        found = {field: [float(value) for value in values] for (row, field), values in cells.items() if row == name}
        assert found == wanted


def test_shown_numbers_are_the_exact_ones_rounded(make_run: MakeRun) -> None:
    html = html_of(make_run())
    shown = re.findall(r'<data value="([^"]+)">([^<]+)</data>', html)
    scale = {
        "s": 1,
        "min": 60,
        "h": 3600,
        "B": 1,
        "kB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
        "k": 1e3,
        "M": 1e6,
        "G": 1e9,
        "ms": 1,
        "": 1,
    }
    assert len(shown) > 300
    for exact, text in shown:
        parts = re.fullmatch(
            r"\$?([+-]?[\d.,]+)(%?)(?:\u00a0(\w+))?", text.replace("\u2212", "-").replace("&lt; .001", "0.0005")
        )
        assert parts is not None, text
        number = float(parts[1].replace(",", "")) * scale[parts[3] or ""]
        near = (number, number / 100) if parts[3] is None else (number,)
        assert any(abs(float(exact) - value) <= max(0.006 * abs(value), 0.00051) for value in near), (exact, text)


def test_pairs_can_be_read_from_both_sides(make_run: MakeRun) -> None:
    run = make_run()
    html = html_of(run)
    matrix = html[html.index('<table class="matrix">') : html.index("</table>", html.index('<table class="matrix">'))]
    rows = {re.search(r"<th scope=\"row\">([^<]+)", row)[1]: row for row in matrix.split("<tr>")[2:]}  # type: ignore[index]
    columns = re.findall(r'<th scope="col">([^<]+)', matrix)
    assert list(rows) == columns
    for pair in result(run)["pairs"]:
        for row, column, sign in ((pair["a"], pair["b"], 1), (pair["b"], pair["a"], -1)):
            cell = re.findall(r"<td.*?</td>", rows[row], re.DOTALL)[columns.index(column)]
            difference, low, high = (float(value) for value in re.findall(r'value="([^"]+)"', cell))
            assert difference == sign * pair["difference"]
            assert (low, high) == ((pair["low"], pair["high"]) if sign == 1 else (-pair["high"], -pair["low"]))
            assert ('class="unclear"' in cell) == (pair["p_adjusted"] >= 0.05)


def test_nothing_is_loaded_and_nothing_runs(make_run: MakeRun) -> None:
    html = html_of(make_run(hostile=True))
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert names.isdisjoint({"img", "iframe", "object", "embed", "link", "base", "form", "image", "use"})
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            if name in ("src", "href", "xlink:href", "action", "data"):
                assert value is not None
                assert value.startswith("#")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (value["content"] for _, value in page.tags if value.get("http-equiv") == "Content-Security-Policy")
    allowed = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert policy == f"{allowed}; base-uri 'none'; form-action 'none'"
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert all((attributes["href"] or "")[1:] in targets for tag, attributes in page.tags if tag == "a")


def test_text_of_the_user_is_shown_not_obeyed(make_run: MakeRun) -> None:
    html = html_of(make_run(hostile=True))
    page = Page(html)
    assert html.count("<script") == 1
    assert "<img" not in html
    assert '<script>alert("x")</script>' in page.text
    assert "{{ 7*7 }}" in page.text
    assert "x" * 5000 not in html
    assert len(html) < 3_000_000


def test_labels_and_reasons_are_escaped_where_they_are_attributes(make_run: MakeRun) -> None:
    run = make_run(hostile=True)
    content = result(run)
    content["candidates"][0]["id"] = '"><b onclick=x>'
    content["decision"]["reason"] = "<i>reason</i>"
    change(run, **content)
    page = Page(html_of(run))
    assert all("onclick" not in attributes for _, attributes in page.tags)
    assert "<i>reason</i>" in page.text
    assert '"><b onclick=x>' in page.text


def test_the_same_folder_gives_the_same_bytes(make_run: MakeRun) -> None:
    run = make_run(methods=("majority", "lora", "prefix"))
    first = build_report(run).read_bytes()
    assert build_report(run).read_bytes() == first


def test_a_fresh_process_gives_the_same_bytes_without_heavy_imports(make_run: MakeRun) -> None:
    run = make_run(labels=("no", "yes"), methods=("zero-shot", "lora"))
    first = build_report(run).read_bytes()
    code = (
        "import sys, pathlib; from tunewright.report.build import build_report; "
        "build_report(pathlib.Path(sys.argv[1])); "
        "heavy = {'torch', 'transformers', 'optuna', 'datasets', 'pandas', 'peft'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "[]"
    assert (run / "report.html").read_bytes() == first


def test_seventy_seven_labels(make_run: MakeRun) -> None:
    html = html_of(make_run(labels=[f"label number {k}" for k in range(77)], n_test=231, methods=("lora",)))
    page = Page(html)
    assert all(f"label number {k}" in page.text for k in range(77))
    assert len(html) < 1_500_000


@pytest.mark.parametrize("methods", [("majority",), ("majority", "gradual-unfreezing"), ("lora",)])
def test_few_candidates(make_run: MakeRun, methods: tuple[str, ...]) -> None:
    page = Page(html_of(make_run(methods=methods)))
    assert f"Recommended: {methods[0]}" in page.text
    assert "There are no pairs" in page.text
    assert ("48 training rows are too few" in page.text) == (len(methods) > 1)


def test_a_run_in_which_nothing_was_finished(make_run: MakeRun) -> None:
    run = make_run(methods=("majority", "gradual-unfreezing"))
    change(run, candidates=result(run)["candidates"][1:], pairs=[], decision=None)
    page = Page(html_of(run))
    assert "Nothing to recommend" in page.text
    assert "48 training rows are too few" in page.text


def test_optional_files_may_be_absent(make_run: MakeRun) -> None:
    run = make_run()
    for name in ("trials.jsonl", "test.jsonl", "data.json", "environment.json", "run.yaml"):
        (run / name).unlink()
    page = Page(html_of(run))
    assert "No trials are in the run folder" in page.text
    assert "Recommended: lora" in page.text


def test_values_may_be_none(make_run: MakeRun) -> None:
    run = make_run()
    content = result(run)
    for candidate in content["candidates"]:
        candidate["cost"] = dict.fromkeys(candidate["cost"])
        candidate["dev"] = None
        candidate["seeds"] = [seed | {"dev": None, "test": None} for seed in candidate["seeds"]]
    content["decision"] |= dict.fromkeys(("stability", "corrected_value", "minimum_detectable_difference"))
    content["decision"]["not_separated"][0]["rows_needed"] = None
    change(run, **content)
    (run / "trials.jsonl").write_text(
        '{"method": "lora"}\n{"candidate": "lora", "value": null, "seconds": null}\n{"torn', encoding="utf-8"
    )
    (run / "data.json").write_text('{"notices": [{"code": "twins"}]}', encoding="utf-8")
    page = Page(html_of(run))
    assert "No cost is known of any candidate" in page.text
    assert "twins" in page.text
    assert "None" not in page.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("comparison.json", None),
        ("comparison.json", "{"),
        ("comparison.json", "[]"),
        ("comparison.json", '{"schema_version": 99}'),
        ("trials.jsonl", "no json\n"),
        ("data.json", "[1]"),
        ("test.jsonl", '{"id": "a"}\n'),
    ],
)
def test_a_broken_folder_is_one_line_and_leaves_the_old_page(make_run: MakeRun, name: str, content: str | None) -> None:
    run = make_run(methods=("majority",))
    (run / "report.html").write_text("old", encoding="utf-8")
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content, encoding="utf-8")
    with pytest.raises(RunError) as caught:
        build_report(run)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    assert (run / "report.html").read_text(encoding="utf-8") == "old"


def test_the_shipped_seed_is_named_with_the_command_that_serves_it(make_run: MakeRun) -> None:
    run = make_run()
    lora = next(each for each in result(run)["candidates"] if each["id"] == "lora")
    seed = next(each["seed"] for each in lora["seeds"] if each["shipped"])
    page = Page(html_of(run))
    assert page.text.count(f"tunewright predict runs/run/adapters/lora/seed-{seed} FILE") == 2
    change(run, provenance=result(run)["provenance"] | {"command": "tunewright compare x.csv --out 'my runs/a b'"})
    assert Page(html_of(run)).text.count(f"tunewright predict 'my runs/a b/adapters/lora/seed-{seed}' FILE") == 2


def test_what_was_not_measured_is_told_beside_the_decision(make_run: MakeRun) -> None:
    first_screen, _, rest = Page(html_of(make_run())).text.partition("Quality against cost")
    assert "gradual-unfreezing (skipped: 48 training rows are too few for four stages <b>& more</b>)" in first_screen
    assert "Each family of methods was allotted the same budget" in rest
    run = make_run(name="two")
    candidates = result(run)["candidates"]
    candidates[0] |= {"status": "failed", "reason": candidates[-1]["reason"], "test": None}
    candidates[-1]["status"] = "failed"
    change(run, candidates=candidates)
    assert "majority, gradual-unfreezing (failed: 48 training rows" in Page(html_of(run)).text
    assert "No value came of gradual-unfreezing (fine-tuning): why." in rest
    whole = Page(html_of(make_run(methods=("lora",), name="whole"))).text
    assert "Not measured" not in whole.partition("Quality against cost")[0]


def test_trials_that_were_cut_short_are_told(make_run: MakeRun) -> None:
    run = make_run(methods=("lora",))
    (run / "trials.jsonl").write_text('{"candidate": "lora", "status": "cut", "value": 0.5}\n', encoding="utf-8")
    page = Page(html_of(run))
    assert "Time ran out: 1 trial was cut short." in page.text
    assert "The run folder has 1 trial, but no candidate has the two dev values" in page.text


def test_who_does_not_read_the_text_has_no_part_in_disagreements(make_run: MakeRun) -> None:
    html = html_of(make_run(methods=("majority", "lora", "prefix")))
    answers = re.findall(r'<span class="by">([^<]+)</span>', html)
    assert {name for given in answers for name in given.split(", ")} == {"lora", "prefix"}


def test_one_pair_is_not_spoken_of_as_many(make_run: MakeRun) -> None:
    text = Page(html_of(make_run(methods=("majority", "lora")))).text
    assert "Coloured where the p-value is below 0.05" in text
    assert "The pair with its p-value" in text
    assert "1 pairs" not in text


def test_prices_and_settings_are_written_for_people(make_run: MakeRun) -> None:
    run = make_run(methods=("majority", "lora"))
    content = result(run)
    content["candidates"][1]["params"] = {"lr": 0.06145141246151429, "length": 20, "init": "<i>"}
    content["decision"]["prices"] |= {"usd_per_<i>": 2.0, "{0.real}": 3.0}
    change(run, **content)
    html = html_of(run)
    text = Page(html).text.replace("\u00a0", " ")
    assert "init <i>, length 20, lr 0.0615" in text
    assert '<data value="0.06145141246151429">' in html
    assert "0.22 US dollars for 1015 operations" in text
    assert "3 US dollars for a gigabyte held in memory for a month" in text
    assert "100,000 requests a month" in text
    assert "usd per <i> 2" in text
    assert "{0.real} 3" in text


def test_every_record_has_its_place(rich_run: Path) -> None:
    page = Page((rich_run / "report.html").read_text(encoding="utf-8"))
    sections = [value["id"] for tag, value in page.tags if tag == "section"]
    assert sections == ["quality", "candidates", "pairs", "tuning", "classes", "slices", "calibration", "rows",
                        "ledger", "checks", "requirements", "data", "method"]  # fmt: skip
    text = re.sub(r"\s+", " ", page.text)
    for told in (
        "Required of a candidate: quality>=0.85, latency_p95_ms<=20, bytes<=5MB",
        "bytes 90.9 MB, at most 5 MB",
        "The rows were split 5 times over, 2 times anew",
        "240 test rows could not separate 5 points.",
        "of a budget of 10 min",
        "gradual-unfreezing: 2 trials",
        "soft-prompt differs by 6.1 points between seeds <i>of the same setting</i>.",
        "3 checks, 2 failed",
        "Not known, and so not drawn: today.",
        "he / she",
        "len>200",
        "answers below 0.5 are left to somebody else",
        "to own for 12 months",
    ):
        assert told in text
    assert "None" not in text


def test_a_failed_check_stands_beside_the_number_it_touches(rich_run: Path) -> None:
    html = (rich_run / "report.html").read_text(encoding="utf-8")
    touched = [
        re.search(r'data-candidate="([^"]+)"', row)[1]  # type: ignore[index]
        for row in re.findall(r"<tr data-candidate.*?</tr>", html, re.DOTALL)
        if "#check-unstable-across-seeds" in row
    ]
    assert touched == ["soft-prompt"]
    first, _, _ = Page(html).text.partition("Quality against cost")
    assert "240 test rows cannot separate the top two" in first
    assert "differs by 6.1 points" not in first


def test_slices_calibration_and_gaps_carry_their_exact_numbers(rich_run: Path) -> None:
    html = (rich_run / "report.html").read_text(encoding="utf-8")
    for candidate in result(rich_run)["candidates"]:
        numbers = [part["value"]["value"] for part in candidate.get("slices", ())]
        numbers += [gap[key] for gap in candidate.get("gaps", ()) for key in ("difference", "low", "high")]
        if candidate.get("calibration"):
            numbers += [candidate["calibration"][key] for key in ("error_before", "error", "mean_error_cost")]
        assert all(f'<data value="{number!r}">' in html for number in numbers)


def test_methods_are_compared_beside_artefacts(rich_run: Path) -> None:
    html = (rich_run / "report.html").read_text(encoding="utf-8")
    table = html.split('<table class="matrix">')[2].partition("</table>")[0]
    pair = next(each for each in result(rich_run)["pairs"] if each["a"] == "lora" and each["b"] == "full")["methods"]
    assert f'<data value="{-pair["high"]!r}">' in table
    assert f'<data value="{pair["low"]!r}">' in table


@pytest.mark.parametrize("kept", ["majority", None])
def test_where_no_candidate_meets_what_is_required_the_nearest_misses_are_shown(
    make_run: MakeRun, kept: str | None
) -> None:
    run = make_run(methods=("majority", "lora"))
    decision = result(run)["decision"] | {"recommended": kept, "nearest_misses": ["lora: bytes 1.2 MB, at most 1 MB"]}
    change(run, decision=decision | {"requirements": ["bytes<=1MB"]})
    text = Page(html_of(run)).text
    assert ("No candidate meets what is required" in text) == (kept is None)
    assert ("lora: bytes 1.2 MB, at most 1 MB" in text) == (kept is None)
    assert ("tunewright predict" in text) == (kept is not None)
    markdown = (run / "report.md").read_text(encoding="utf-8")
    assert ("lora: bytes 1.2 MB, at most 1 MB" in markdown) == (kept is None)


def test_a_page_of_hostile_rows_stays_under_its_limit(make_run: MakeRun) -> None:
    run = make_run(hostile=True, n_test=400, methods=("zero-shot", "few-shot", "lora"))
    html = html_of(run)
    assert len(html.encode("utf-8")) < 3_000_000
    assert html.count('<span class="id">') > 30


def test_each_remark_says_for_itself_what_holds(make_run: MakeRun) -> None:
    """The first label may be right, so that nothing is said of all remarks."""
    run, said = make_run(), "12.0% were none of the labels and count as the first of them"
    change(run, candidates=[each | {"remarks": [said]} for each in result(run)["candidates"]])
    (section,) = re.findall(r'<section id="remarks">.*?</section>', html_of(run), re.DOTALL)
    assert said in section
    assert "wrong" not in section
    assert "could not judge" not in section
