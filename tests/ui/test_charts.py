from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.ui import charts
from fullbore.ui.charts import Layer, Line, Mark, Part, Point
from fullbore.ui.labels import Curve, place_labels
from fullbore.ui.panels.course import tenths
from fullbore.ui.report import legible_on
from fullbore.ui.series import Series


def series(*values: float) -> Series:
    return Series(tuple(float(x) for x in range(len(values))), values, values, values, values[-1], len(values))


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 8))
def test_ticks_enclose_are_round_and_few(low: float, span: float, count: int) -> None:
    found = charts.ticks(low, low + span, count)
    slack = 1e-6 * max(abs(low), span)
    assert found[0] <= low + slack and found[-1] >= low + span - slack
    assert 2 <= len(found) <= 2 * count + 1


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, (0, 2.5, 5, 7.5, 10)),
        (1.39, 1.47, (1.38, 1.4, 1.42, 1.44, 1.46, 1.48)),
        (0, 0.002, (0, 0.0005, 0.001, 0.0015, 0.002)),
    ],
)
def test_ticks(low: float, high: float, expected: tuple[float, ...]) -> None:
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_a_constant_series_has_a_scale() -> None:
    scale = charts.scale([0.0, 0.0])
    assert scale.low < 0 < scale.high and scale.at(0.0) == 500


@pytest.mark.parametrize(("seconds", "ticks"), [(45, 5), (125, 5), (3700, 5), (400_000, 5), (0.5, 3), (0, 2)])
def test_time_axes_have_round_ticks(seconds: float, ticks: int) -> None:
    scale = charts.time_scale(seconds)
    assert scale.low == 0 and 1 <= len(scale.ticks) <= ticks + 1 and max(scale.ticks) <= max(seconds, 1e-3)


@pytest.mark.parametrize(("seconds", "text"), [(4.28921, "4.29 s"), (45, "45 s"), (150, "2:30"), (3661, "1:01:01")])
def test_moments_read_well(seconds: float, text: str) -> None:
    assert charts.clock(seconds) == text


def test_every_chart_is_well_formed_and_titled() -> None:
    lines = [
        Line("train", "var(--ink)", series(3.0, 2.0, 1.0)),
        Line("val <b>", "var(--evaluate)", series(2.5, 1.5), dots=True),
    ]
    drawn = [
        charts.line_chart("Loss", lines, unit="per token", marks=[Mark("bigram 2.3", 2.3), Mark("trigram 2.2", 2.2)]),
        charts.stack_chart(
            "Time", [0, 1, 2], [Layer("forward", "blue", [0.5, 0.4])], unit="share", x=charts.time_scale(2), top=1
        ),
        charts.scatter_chart(
            "Trade", [Point("bf16", 10, 1.4, 1.3, 1.5, True), Point("int8", 20, 1.6)], x_unit="samples/s", unit="loss"
        ),
        charts.whole_bar(
            [Part("forward", 0.6, "60.0 %", "blue", "#000"), Part("other", 0.4, "40.0 %", "grey", "#fff")]
        ),
    ]
    for markup in drawn:
        root = ElementTree.fromstring(markup)
        assert root.findall(".//title") or root.get("aria-label")
    assert "val &lt;b&gt;" in drawn[0] and "<b>" not in drawn[0].replace("<b>2</b>", "").replace(
        "<b>1</b>", ""
    ).replace("<b>1.5</b>", "")


FALLING = [(0.0, 80.0, 90.0), (20.0, 40.0, 50.0), (60.0, 24.0, 34.0), (100.0, 20.0, 30.0)]
RISING = [(x, 100 - high, 100 - low) for x, low, high in FALLING]


@pytest.mark.parametrize(
    ("height", "curves", "place"),
    [
        (60, [FALLING], "right above"),
        (26, [FALLING], "left above"),
        (20, [FALLING], "right below"),
        (74, [RISING], "left above"),
        (96, [], "right below"),
        (50, [[(0.0, 45.0, 45.0), (20.0, 45.0, 45.0)]], "right above"),
    ],
)
def test_labels_keep_off_the_curves(height: float, curves: list[Curve], place: str) -> None:
    assert place_labels([("bigram 2.146", height)], curves) == [place]


def test_labels_keep_off_one_another() -> None:
    marks = [("bigram 2.31", 80.0), ("trigram 2.30", 79.0), ("unigram 2.2", 76.0)]
    assert place_labels(marks, []) == ["right above", "right below", "left below"]
    assert len(set(place_labels(marks[:2], [FALLING]))) == 2


def test_thinned_lines_have_a_band_and_others_none() -> None:
    whole = series(1.0, 2.0)
    thinned = Series((0.0, 1.0), (0.5, 1.5), (1.0, 2.0), (1.5, 2.5), 2.0, 200)
    assert 'class="band"' not in charts.line_chart("a", [Line("a", "red", whole)], unit="")
    assert 'class="band"' in charts.line_chart("a", [Line("a", "red", thinned)], unit="")


def test_equal_neighbours_of_a_stack_are_one_rectangle() -> None:
    layers = [Layer("a", "red", [0.5] * 200), Layer("b", "blue", [0.5] * 100 + [0.0] * 100)]
    edges = [float(index) for index in range(201)]
    markup = charts.stack_chart("s", edges, layers, unit="", x=charts.Scale(0, 200, (0.0,)), top=1)
    assert markup.count("z") == 2


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30))
def test_printed_shares_sum_to_one_hundred(values: list[float]) -> None:
    assert sum(round(10 * share) for share in tenths(values)) == 1000


@pytest.mark.parametrize(("ground", "ink"), [("#ffffff", "#000"), ("#2b2f33", "#fff"), ("#2f8fd0", "#000")])
def test_text_on_colours_is_legible(ground: str, ink: str) -> None:
    assert legible_on(ground) == ink
