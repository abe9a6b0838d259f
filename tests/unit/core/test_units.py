"""Numbers with units."""

import pytest

from regionspot.core.text import human_bytes, human_duration


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (526_336, "526.3 kB"),
        (10_400_000_000, "10.4 GB"),
        (1_578_900_000_000, "1.6 TB"),
        (3_000_000_000_000_000, "3,000.0 TB"),
    ],
)
def test_bytes_are_written_in_units_of_a_thousand(num_bytes: int, text: str) -> None:
    assert human_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (99.94, "99.9 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (47 * 3600 + 59 * 60, "47 h 59 min"),
        (76 * 3600, "3 days 4 h"),
        (2.6e8, "3,009 days 6 h"),
    ],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text
