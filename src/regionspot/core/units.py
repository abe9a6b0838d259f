"""Numbers with units, for people."""


def human_bytes(num_bytes: float) -> str:
    """Write a number of bytes with a unit of 1000: 526.3 kB, 10.4 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:,.0f} {unit}" if unit == "B" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"
