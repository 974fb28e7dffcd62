"""Quality against cost: marks where they belong, names that cover nothing."""

import math
import re
from xml.etree import ElementTree

import pytest

from tunewright.report.plane import Level, Mark, Plane, front, scatter
from tunewright.types import Estimate

SPACE = "{http://www.w3.org/2000/svg}"


def mark(name: str, cost: float, value: float, *, recommended: bool = False) -> Mark:
    test = Estimate(value=value, low=value - 0.05, high=value + 0.03, n=100)
    return Mark(name=name, family="fine-tuning", cost=cost, test=test, recommended=recommended)


MARKS = [mark("free", 0.0, 0.2), mark("cheap", 0.01, 0.6), mark("dear", 10.0, 0.8, recommended=True)]
LEVELS = [Level(name="chance", value=0.2)]


def test_a_mark_stands_at_its_cost_and_its_value() -> None:
    plane = Plane.around(MARKS, LEVELS, width=400, height=300)
    drawing = scatter(MARKS, LEVELS, title="Price", width=400, height=300)
    root = ElementTree.fromstring(str(drawing).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
    places = {}
    for path in root.iter(f"{SPACE}path"):
        title = path.find(f"{SPACE}title")
        if title is not None and title.text is not None:
            places[title.text.split(" (")[0]] = [float(x) for x in re.findall(r"[\d.]+", path.attrib["transform"])[:2]]
    for item in MARKS[1:]:
        across = (math.log10(item.cost) - plane.left) / (plane.right - plane.left) * 400
        upwards = (plane.high - item.test.value) / (plane.high - plane.low) * 300
        assert places[item.name] == pytest.approx([across, upwards], abs=0.01)
    assert places["free"][0] < places["cheap"][0] < places["dear"][0]


def test_what_is_next_to_free_stands_left_of_a_break_with_its_true_cost() -> None:
    marks = [mark("majority", 1.3e-9, 0.2), *MARKS[1:]]
    drawing = str(scatter(marks, LEVELS, title="Price", width=400, height=300))
    texts = re.findall(r"<text[^>]*>([^<]+)<", drawing)
    assert "\u2264 1.3e-09" in texts
    assert "0" not in texts
    assert "//" in texts
    assert "majority (fine-tuning): 20.0%, 95% interval 15.0 to 23.0, n = 100; cost 1.3e-09" in drawing
    assert "0" in re.findall(r"<text[^>]*>([^<]+)<", str(scatter(MARKS, LEVELS, title="Price", width=400, height=300)))
    whole = str(scatter(MARKS[1:], LEVELS, title="Price", width=400, height=300))
    assert "//" not in re.findall(r"<text[^>]*>([^<]+)<", whole)


def test_the_interval_and_n_of_every_mark_are_told() -> None:
    drawing = scatter(MARKS, LEVELS, title="Price", width=400, height=300)
    assert "cheap (fine-tuning): 60.0%, 95% interval 55.0 to 63.0, n = 100; cost 0.01" in drawing


@pytest.mark.parametrize("costs", [(0.0,), (0.0, 0.0), (3.0,), (3.0, 3.0), (1e-9, 1e9)])
def test_the_plane_holds_every_mark(costs: tuple[float, ...]) -> None:
    marks = [mark(f"m{k}", cost, 0.5 + 0.1 * k) for k, cost in enumerate(costs)]
    plane = Plane.around(marks, LEVELS, width=300, height=200)
    for item in marks:
        x, y = plane.pixel(item)
        assert 0 < x < 300
        assert 0 < y < 200
    assert scatter(marks, LEVELS, title="Price", width=300, height=200).startswith("<svg")


def test_the_front_holds_whom_no_other_beats() -> None:
    placed = {"a": (1.0, 0.5), "b": (2.0, 0.4), "c": (3.0, 0.7), "d": (3.0, 0.6), "e": (0.5, 0.5), "f": (9.0, 0.7)}
    marks = [mark(name, cost, value) for name, (cost, value) in placed.items()]
    beaten = {
        item.name
        for item in marks
        for other in marks
        if (other.cost, -other.test.value) != (item.cost, -item.test.value)
        and other.cost <= item.cost
        and other.test.value >= item.test.value
    }
    assert [item.name for item in front(marks)] == sorted({m.name for m in marks} - beaten, reverse=True) == ["e", "c"]
