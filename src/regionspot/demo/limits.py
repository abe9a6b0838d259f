"""What a visitor of the page may ask for."""

from dataclasses import dataclass, fields

from regionspot.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a visitor may ask for; more is refused with a message."""

    max_upload_mb: float = 20.0
    """Size of a picture file in MB."""
    max_pixels: int = 25_000_000
    """Height times width of a picture."""
    max_names: int = 2_000
    """Number of words to choose from."""
    max_regions: int = 100
    """Number of boxes, of points, or of regions that SAM proposes."""
    max_examples: int = 50
    """Number of examples that a visitor adds."""
    max_waiting: int = 64
    """Number of requests that wait; one is answered at a time."""

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"--limits.{name} is {value}; wanted more than 0.")
