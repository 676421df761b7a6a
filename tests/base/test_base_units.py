"""What people write is read exactly, what is printed reads back, and what makes no sense is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.base.units import (
    Budget,
    BudgetUnit,
    format_bytes,
    format_count,
    format_of,
    format_seconds,
    format_share,
    parse_budget,
    parse_bytes,
    parse_seconds,
    parse_share,
    plural,
)

BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "hours": 3600.0}
FIGURES = {"T": 1e12, "B": 1e9, "M": 1e6, "k": 1e3, "": 1.0}


@given(st.integers(0, 2**50), st.sampled_from(sorted(BYTES)), st.sampled_from(["", " ", "  "]))
def test_whole_sizes_are_exact_in_any_unit(amount: int, unit: str, space: str) -> None:
    small = amount % 2**20
    assert parse_bytes(f"{small}{space}{unit}") == small * BYTES[unit]
    assert parse_bytes(f"{amount}") == parse_bytes(f"{amount:_}") == parse_bytes(amount) == amount
    assert parse_bytes(f"{amount} b") == amount


@given(st.integers(0, 10**12), st.sampled_from(["kB", "MB", "GB", "TB"]))
def test_a_size_with_a_fraction_is_the_nearest_byte(count: int, unit: str) -> None:
    assert parse_bytes(f"{Decimal(count) / BYTES[unit]:f}{unit}") == count


@given(st.integers(0, 400), st.integers(0, 59), st.integers(0, 59))
def test_durations_add_up_their_parts(hours: int, minutes: int, seconds: int) -> None:
    expected = hours * 3600 + minutes * 60 + seconds
    assert parse_seconds(f"{hours}h{minutes}m{seconds}s") == expected
    assert parse_seconds(f" {hours} h {minutes} min {seconds} s ") == expected
    assert parse_seconds(expected) == expected


@given(st.floats(0, 1e9), st.sampled_from(sorted(SECONDS)))
def test_a_duration_is_its_number_times_its_unit(amount: float, unit: str) -> None:
    assert parse_seconds(f"{Decimal(repr(amount)):f} {unit}") == amount * SECONDS[unit]


@given(st.integers(0, 1000))
def test_a_share_is_a_number_or_per_cent(thousandths: int) -> None:
    assert parse_share(f"{thousandths / 10}%") == pytest.approx(thousandths / 1000)
    assert parse_share(thousandths / 1000) == parse_share(str(thousandths / 1000)) == thousandths / 1000


@given(st.floats(1e-300, 1e300), st.sampled_from(get_args(BudgetUnit)))
def test_a_budget_reads_back_as_it_was_written(amount: float, unit: BudgetUnit) -> None:
    assert parse_budget(str(Budget(amount, unit))) == Budget(amount, unit)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("90s", 90, "seconds"), ("3 min", 180, "seconds"), ("1h30m", 5400, "seconds"), ("1 step", 1, "steps"),
        ("200 Steps", 200, "steps"), ("10M tokens", 10**7, "tokens"), ("1.5 k samples", 1500, "samples"),
        ("2B tokens", 2 * 10**9, "tokens"), ("1_000 steps", 1000, "steps"), ("0.5 epoch", 0.5, "epochs"),
    ],
)  # fmt: skip
def test_budgets_as_people_write_them(text: str, amount: float, unit: BudgetUnit) -> None:
    assert parse_budget(text) == Budget(amount, unit)


def test_budgets_are_printed_as_they_were_meant() -> None:
    assert [str(Budget(90.0, "seconds")), str(Budget(200, "steps"))] == ["90 s", "200 steps"]
    assert [str(Budget(1.5, "epochs")), str(Budget(1e7, "tokens"))] == ["1.5 epochs", "10000000 tokens"]


NONSENSE: list[tuple[Callable[[str], object], str]] = [
    *((parse_bytes, text) for text in ("", "MB", "64XB", "-1MB", "1.2.3MB", "6 4MB", "1e999", "1e308TB", "٣MB", "5%")),
    *(
        (parse_seconds, text)
        for text in ("", "90", "5 parsecs", "1h30", "h", "-5s", "1h,30m", "1e5s", f"1{'0' * 400}s")
    ),
    *((parse_share, text) for text in ("", "101%", "1.01", "-1%", "5 percent", "50%%", "1e999%")),
    *(
        (parse_budget, text)
        for text in ("", "200", "0 steps", "3 laps", "-1 epochs", "0s", "5 k", "many", f"{'9' * 400} steps")
    ),
]


@pytest.mark.parametrize(("parse", "text"), NONSENSE, ids=[f"{p.__name__} {t[:12]!r}" for p, t in NONSENSE])
def test_nonsense_is_refused_with_what_was_found_and_what_was_expected(
    parse: Callable[[str], object], text: str
) -> None:
    with pytest.raises(ValueError, match=r"found '.*', expected (a|an) ") as told:
        parse(text)
    assert parse in (parse_seconds,) or repr(text) in str(told.value)


@given(st.text(max_size=12) | st.from_regex(r"[0-9._e+-]{1,8} ?[a-zA-Z%]{0,6}", fullmatch=True))
def test_any_text_is_read_or_refused_and_never_breaks(text: str) -> None:
    for parse in (parse_bytes, parse_seconds, parse_share, parse_budget):
        try:
            found = parse(text)
        except ValueError:
            continue
        amount = found.amount if isinstance(found, Budget) else found
        assert isinstance(amount, int | float)
        assert 0 <= amount < math.inf


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, math.inf])
def test_a_share_outside_nought_and_one_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        parse_share(share)


@given(st.floats(1, 1e18), st.sampled_from([-1, 1]))
def test_counts_and_bytes_are_printed_to_three_figures_and_never_with_an_exponent(size: float, sign: int) -> None:
    for text in (format_bytes(sign * size).removesuffix("B").replace(" ", ""), format_count(sign * size)):
        digits = text.rstrip("TBGMk")
        unit = {"G": "B"}.get(text[len(digits) :], text[len(digits) :])
        assert "e" not in text
        assert float(digits) * FIGURES[unit] == pytest.approx(sign * size, rel=0.00502, abs=0.5)
        assert abs(float(digits)) < 1000 or unit == "T"


@given(st.floats(0, 1e8))
def test_a_printed_duration_reads_back_to_what_it_shows(seconds: float) -> None:
    text = format_seconds(seconds)
    assert "e" not in text
    assert seconds == 0 or format_seconds(-seconds) == f"-{text}"
    if "µs" in text:
        assert float(text.removesuffix(" µs")) * 1e-6 == pytest.approx(seconds, abs=0.51e-6)
    else:
        shown = 60.0 if "h" in text else 0.51 if "min" in text else 0.00502 * seconds
        assert parse_seconds(text) == pytest.approx(seconds, abs=shown)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (format_bytes(0), "0 B"), (format_bytes(999), "999 B"), (format_bytes(1_500_000), "1.5 MB"),
        (format_bytes(999_999), "1 MB"), (format_bytes(1.5e15), "1500 TB"),
        (format_count(0), "0"), (format_count(12_345), "12.3k"), (format_count(999_999), "1M"),
        (format_count(7.89e9), "7.89B"), (format_count(0.125), "0.125"),
        (format_seconds(0), "0 µs"), (format_seconds(0.00085), "850 µs"), (format_seconds(0.0123), "12.3 ms"),
        (format_seconds(0.9999), "1 s"), (format_seconds(4.56), "4.56 s"), (format_seconds(185), "3 min 05 s"),
        (format_seconds(3599.9), "1 h 00 min"), (format_seconds(7620), "2 h 07 min"),
        (format_share(0.1234), "12.3 %"), (plural(1, "step"), "1 step"), (plural(1200, "step"), "1,200 steps"),
        (plural(0, "run"), "0 runs"),
    ],
)  # fmt: skip
def test_figures_as_people_read_them(found: str, text: str) -> None:
    assert found == text


def test_a_share_of_a_ceiling() -> None:
    assert format_of(0.25, 2e12, "FLOP/s") == "500 GFLOP/s of 2 TFLOP/s"
    assert format_of(0.5, 34.6e9, "B/s") == "17.3 GB/s of 34.6 GB/s"
    assert format_of(0.9, 2, "cores") == "1.8 of 2 cores"
