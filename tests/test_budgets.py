"""Budgets as people write them."""

from __future__ import annotations

import pytest

from experiments.budgets import format_count, format_seconds, parse_count, parse_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1.5ms", 0.0015), (" 15 MS ", 0.015), ("230us", 230e-6), ("3 µs", 3e-6), ("3 μs", 3e-6), ("0.2s", 0.2),
     (".5ms", 5e-4), ("2e-3 s", 2e-3), ("1.E1ms", 1e-2)],
)  # fmt: skip
def test_times_are_read_in_any_unit(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    ["15 parsecs", "-1ms", "nan", "nans", "inf", "15", "", "ms", "0ms", "1,5ms", "1.5 ms ms", "1e999s", "1 2ms", "٣ms"],
)
def test_malformed_times_name_value_and_form(text):
    with pytest.raises(ValueError, match="is not a time; write a number above 0 and s, ms or us") as caught:
        parse_seconds(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "count"),
    [("300M", 300_000_000), ("1.2g", 1_200_000_000), ("7.66 m", 7_660_000), ("980", 980), ("2e6", 2_000_000)],
)
def test_counts_are_read_with_or_without_letter(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "M", "-3M", "nan", "0", "0.2", "300Q", "3 million", "1e999"])
def test_malformed_counts_name_value_and_form(text):
    with pytest.raises(ValueError, match="is not a count; write a number from 1 on"):
        parse_count(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0015, "1.50 ms"),
        (2.3e-4, "230 µs"),
        (12.0, "12.0 s"),
        (0.0009999, "1.00 ms"),
        (3.2e-6, "3.20 µs"),
        (0.0, "0.00 µs"),
    ],
)
def test_times_are_written_with_three_digits(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize("seconds", [1.23e-6, 4.56e-5, 7.89e-4, 1.01e-3, 0.5, 3.21, 99.9])
def test_a_written_time_reads_back(seconds):
    assert parse_seconds(format_seconds(seconds)) == pytest.approx(seconds, rel=6e-3)


@pytest.mark.parametrize(
    "count, text", [(300e6, "300M"), (7_664_760, "7.66M"), (980, "980"), (999_900, "1.00M"), (2e13, "20.0T")]
)
def test_counts_are_written_with_three_digits(count, text):
    assert format_count(count) == text
