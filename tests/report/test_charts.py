"""The drawings: what stands where, read back from the SVG."""

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from tunewright.report.charts import Curve, best_so_far, heatmap, reliability, risk_coverage, search
from tunewright.report.page import curves
from tunewright.runs.measurements import Bin, Coverage
from tunewright.types import Estimate

SPACE = "{http://www.w3.org/2000/svg}"


def drawn(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(markup).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_best_so_far_skips_what_did_not_end() -> None:
    assert best_so_far([None, 0.4, None, 0.3, 0.7]) == [None, 0.4, 0.4, 0.4, 0.7]
    assert best_so_far([]) == []


def test_the_heatmap_has_a_square_for_each_cell_that_is_not_empty_in_its_place() -> None:
    labels = ["<b>first</b>", 'quo"te', "third"]
    root = drawn(heatmap([[5, 1, 0], [0, 7, 0], [2, 0, 0]], labels))
    titles = [title.text for title in root.iter(f"{SPACE}title")]
    assert sorted(titles, key=str) == sorted(
        [
            "<b>first</b> answered as <b>first</b>: 5 of 6 (83%)",
            '<b>first</b> answered as quo"te: 1 of 6 (17%)',
            'quo"te answered as quo"te: 7 of 7 (100%)',
            "third answered as <b>first</b>: 2 of 2 (100%)",
        ]
    )
    places = {}
    for path in root.iter(f"{SPACE}path"):
        title = path.find(f"{SPACE}title")
        if title is not None and title.text is not None:
            x, y = re.findall(r"M([\d.]+),([\d.]+)", path.attrib["d"])[0]
            places[title.text] = (float(x), float(y))
    right_of = places['<b>first</b> answered as quo"te: 1 of 6 (17%)']
    corner = places["<b>first</b> answered as <b>first</b>: 5 of 6 (83%)"]
    below = places["third answered as <b>first</b>: 2 of 2 (100%)"]
    assert right_of[0] > corner[0] + 20
    assert right_of[1] == pytest.approx(corner[1], abs=0.01)
    assert below[1] > corner[1] + 40
    assert below[0] == pytest.approx(corner[0], abs=0.01)


def test_the_search_has_a_dot_for_each_trial_that_ended_at_its_height() -> None:
    curve = Curve(name="lora", family="fine-tuning", values=(0.5, None, 0.7, 0.6))
    root = drawn(search([curve], (0.0, 1.0), width=200, height=100))
    dots = {
        title.text: float(re.findall(r",([\d.]+)\)", path.attrib["transform"])[0])
        for path in root.iter(f"{SPACE}path")
        if (title := path.find(f"{SPACE}title")) is not None
    }
    assert dots == pytest.approx(
        {"lora, trial 1: 50.0%": 50.0, "lora, trial 3: 70.0%": 30.0, "lora, trial 4: 60.0%": 40.0}, abs=0.01
    )


def test_trials_are_grouped_by_candidate_and_those_that_did_not_end_have_no_value() -> None:
    lines: list[dict[str, Any]] = [
        {"candidate": "lora@a", "family": "fine-tuning", "status": "complete", "value": 0.5},
        {"method": "prefix", "value": 0.25},
        {"candidate": "lora@a", "status": "pruned", "value": 0.9},
        {"candidate": "lora@a", "status": "failed", "value": None},
    ]
    assert curves(lines) == [
        Curve(name="lora@a", family="fine-tuning", values=(0.5, None, None)),
        Curve(name="prefix", family="", values=(0.25,)),
    ]


def test_bins_stand_where_they_are_sure_and_right_with_their_interval() -> None:
    """The least is the lower end .42 of an interval, less .04; so .38 to 1.02 is 128 pixels each way."""
    bins = [
        Bin(confidence=0.54, accuracy=Estimate(value=0.5, low=0.42, high=0.58, n=40)),
        Bin(confidence=0.86, accuracy=Estimate(value=0.7, low=0.62, high=0.78, n=20)),
    ]
    root = drawn(reliability(bins, width=128, height=128))
    assert root.attrib["aria-label"] == "Reliability: 54.0% sure, 50.0% right; 86.0% sure, 70.0% right."
    paths = list(root.iter(f"{SPACE}path"))
    places = {
        path.findtext(f"{SPACE}title"): [
            float(number) for number in re.findall(r"[\d.]+", path.attrib["transform"])[:2]
        ]
        for path in paths
        if path.find(f"{SPACE}title") is not None
    }
    assert places == {
        "40 rows, 54.0% sure on average: 50.0% right, 95% interval 42.0 to 58.0": pytest.approx([32, 104], abs=0.01),
        "20 rows, 86.0% sure on average: 70.0% right, 95% interval 62.0 to 78.0": pytest.approx([96, 64], abs=0.01),
    }
    diagonal = next(path.attrib["d"] for path in paths if path.attrib.get("stroke-dasharray") == "4,4")
    assert [float(number) for number in re.findall(r"[\d.]+", diagonal)] == pytest.approx([0, 128, 124, 4], abs=0.01)


def test_the_risk_stands_over_the_coverage_with_a_ring_at_the_threshold() -> None:
    curve = [Coverage(threshold=t, coverage=1 - t, risk=0.2 * (1 - t)) for t in (0.0, 0.5, 0.25)]
    root = drawn(risk_coverage(curve, 0.5, width=102, height=108))
    (ring,) = (
        path for path in root.iter(f"{SPACE}path") if (title := path.find(f"{SPACE}title")) is not None and title.text
    )
    assert (ring.findtext(f"{SPACE}title") or "") == "Threshold 0.50: 50% answered, 10.0% of it wrong"
    x, y = (float(number) for number in re.findall(r"[\d.]+", ring.attrib["transform"])[:2])
    assert (x, y) == pytest.approx((50, 108 * (1 - 0.1 / 0.216)), abs=0.01)
    line = next(p.attrib["d"] for p in root.iter(f"{SPACE}path") if p.attrib.get("d", "").startswith("M50,58"))
    ends = [float(number) for number in re.findall(r"[\d.]+", line)]
    assert ends == pytest.approx([50, 58, 75, 33, 100, 8], abs=0.01)
