"""Charts as SVG: scales, gaps, hostile names."""

import re
import xml.etree.ElementTree as ET

import pytest

from turbo.web.svg import Chart, Series, meter

EVIL = '"><script>alert(1)</script>'


def chart(*series: Series, labels: int = 3, lines: bool = False, title: str = "A chart") -> Chart:
    return Chart("c", title, "What it shows.", [f"{n}:00" for n in range(labels)], series, "{:g}".format, lines)


def axis(drawn: Chart) -> list[str]:
    return re.findall(r'class="axis y"[^>]*>([^<]*)<', drawn.svg)


@pytest.mark.parametrize(
    ("highest", "top"),
    [(0, "4"), (1, "1"), (3.9, "4"), (7, "8"), (9, "10"), (130, "200"), (0.03, "0.04"), (1e9, "1e+09")],
)
def test_axis_ends_at_a_round_figure_above_all(highest: float, top: str):
    assert axis(chart(Series("a", "good", [highest, 0, None])))[-1] == top


def test_bars_are_stacked_and_named():
    drawn = chart(Series("done", "good", [1, 0, 2]), Series("failed", "bad", [1, 0, 0]))
    tree = ET.fromstring(drawn.svg)
    bars = list(tree.iter("rect"))
    assert [one.findtext("title") for one in bars] == ["0:00: 1 done", "0:00: 1 failed", "2:00: 2 done"]
    lower, upper = bars[:2]
    assert float(upper.get("y", 0)) + float(upper.get("height", 0)) == pytest.approx(float(lower.get("y", 0)), abs=0.11)
    assert drawn.rows[0] == ("0:00", ["1", "1"])


def test_line_has_a_gap_where_nothing_is_known():
    tree = ET.fromstring(chart(Series("a", "accent", [1, 2, None, 3, 4]), labels=5, lines=True).svg)
    assert [len(str(one.get("points")).split()) for one in tree.iter("polyline")] == [2, 2]
    assert len(list(tree.iter("circle"))) == 4


def test_image_has_a_title_and_a_description():
    tree = ET.fromstring(chart(Series("a", "accent", [1, 2, 3])).svg)
    assert tree.get("role") == "img"
    names = str(tree.get("aria-labelledby")).split()
    assert [one.text for name in names for one in tree if one.get("id") == name] == ["A chart", "What it shows."]


def test_hostile_names_are_only_text():
    drawn = chart(Series(EVIL, EVIL, [1, 2, 3]), title=EVIL)
    tree = ET.fromstring(drawn.svg)
    assert tree.findtext("title") == EVIL
    assert list(tree.iter("script")) == []
    assert "<script" not in meter(0.5, EVIL)


def test_chart_without_figures_is_empty():
    assert chart(Series("a", "accent", [0, None, 0])).empty
    assert not chart(Series("a", "accent", [0, None, 1])).empty


@pytest.mark.parametrize(("share", "width"), [(None, "0.0"), (-1, "0.0"), (0.5, "50.0"), (7, "100.0")])
def test_meter_stays_within_its_bounds(share: float | None, width: str):
    assert f'class="good" width="{width}"' in meter(share, "good")
