"""Parts of a cache: several processes or machines share the shards of one plan.

Each process gets its part from ``--part 2/8``, or from the environment set by SLURM or torchrun
(``--part auto``). Parts do not communicate: shard n belongs to part n mod count.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from typing_extensions import override

from regionspot.core.errors import ConfigError

AUTO = "auto"

_TEXT = re.compile(r"(\d+)/(\d+)")
_SOURCES = (
    # Index, count, and what the index counts from.
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("SLURM_PROCID", "SLURM_NTASKS", None),
    ("RANK", "WORLD_SIZE", None),
)
_LOCAL = ("LOCAL_RANK", "SLURM_LOCALID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of several equal parts of a plan's shards."""

    index: int
    """Index of the part, from 0."""
    count: int
    """Number of parts."""
    local_index: int = 0
    """Index of this process on its machine, from 0: it uses that GPU."""

    @classmethod
    def parse(cls, text: str, environ: Mapping[str, str]) -> Self:
        """Parse ``2/8``, the second of eight, or ``auto``, which reads the environment.

        Raises:
            ConfigError: It is neither, there is no such part, or the environment has none.
        """
        if text == AUTO:
            return cls._from_environment(environ)
        found = _TEXT.fullmatch(text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(
                f"--part is {text!r}; wanted 2/8 for the second of eight parts, counted from 1, or"
                " auto under SLURM or torchrun."
            )
        return cls(index=int(found[1]) - 1, count=int(found[2]))

    @classmethod
    def _from_environment(cls, environ: Mapping[str, str]) -> Self:
        local = next((int(environ[name]) for name in _LOCAL if name in environ), 0)
        for index_name, count_name, first_name in _SOURCES:
            if index_name in environ and count_name in environ:
                first = int(environ.get(first_name, "0")) if first_name else 0
                index, count = int(environ[index_name]) - first, int(environ[count_name])
                if not 0 <= index < count:
                    raise ConfigError(
                        f"{index_name} is {environ[index_name]} and {count_name} {count}; wanted"
                        " task numbers without gaps, such as --array=0-7."
                    )
                return cls(index=index, count=count, local_index=local)
        wanted = ", ".join(f"{index} and {count}" for index, count, _ in _SOURCES)
        raise ConfigError(
            f"--part is auto, but the environment sets none of {wanted}. Start it under SLURM or"
            " torchrun, or give --part 1/8 and so on yourself."
        )

    def has(self, shard: int) -> bool:
        """Return whether a shard belongs to the part."""
        return shard % self.count == self.index

    @override
    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"
