"""Budgets as people write them."""

from __future__ import annotations

import pytest

from experiments.budgets import (
    format_bytes,
    format_count,
    format_joules,
    format_seconds,
    parse_bytes,
    parse_count,
    parse_joules,
    parse_seconds,
)


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


@pytest.mark.parametrize(("text", "count"), [("5MB", 5e6), ("512 kb", 512e3), ("1.5gB", 1.5e9), ("980B", 980)])
def test_sizes_are_read_and_written(text, count):
    assert parse_bytes(text) == pytest.approx(count)
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=5e-3)
    for wrong in ("5", "5M", "-5MB", "MB", "nan"):
        with pytest.raises(ValueError, match="is not a size; write a number above 0 and B, kB, MB or GB"):
            parse_bytes(wrong)


@pytest.mark.parametrize(("text", "joules"), [("3mJ", 3e-3), ("0.2 j", 0.2), ("410uJ", 410e-6), ("7 µJ", 7e-6)])
def test_energies_are_read_and_written(text, joules):
    assert parse_joules(text) == pytest.approx(joules)
    assert parse_joules(format_joules(joules)) == pytest.approx(joules, rel=5e-3)
    with pytest.raises(ValueError, match="is not an energy; write a number above 0 and J, mJ or uJ"):
        parse_joules("3")
