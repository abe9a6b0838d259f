"""Numbers with units."""

import pytest

from regionspot.core.units import human_bytes


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
