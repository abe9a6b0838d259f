"""What does one GPU make of all this? One command, one table, one JSON file.

    python benchmarks/on_gpu.py                    # the GPU at full size; without one, tiny
    python benchmarks/on_gpu.py --sections '[head, data, hours]'
    python benchmarks/on_gpu.py --size tiny --device cpu   # to try the script, in half a minute

Random weights and made-up photos, which change no speed; no network. Sections are measured in order
of worth, in at most ``budget_s`` in all; what there is no time for is said to be skipped. A section
that fails, or takes too long, costs no other its figures; the command then ends with exit code 1.
``table.md`` and ``results.json`` are written after every section, and ``log.txt`` all the while.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from card.table import Results, SectionResult
from card.worker import Section, Setup, Worker, WorkerError
from jsonargparse import auto_cli

from regionspot.core.files import write_text_atomic

SECTIONS = (
    Section(letter="a", name="caching", function="card.caching:caching", limit_s=180),
    Section(letter="b", name="head", function="card.training:head_eager", limit_s=60),
    Section(letter="d", name="data", function="card.data:data", limit_s=90),
    Section(letter="e", name="loss", function="card.training:focal_loss", limit_s=30),
    Section(letter="c", name="online", function="card.training:cached_and_online", limit_s=90),
    Section(letter="b", name="head compiled", function="card.training:head_compiled", limit_s=90),
    Section(letter="f", name="hours", function="card.training:gpu_hours", limit_s=10),
    Section(letter="a", name="attention", function="card.sam_attention:sam_attention", limit_s=150),
    Section(letter="g", name="toy", function="card.toy:toy", limit_s=120),
    Section(
        letter="a", name="caching compiled", function="card.caching:caching_compiled", limit_s=180
    ),
)
_LEAST_S = 10
"""Nothing is begun with less time than that."""
_LOADING_S = 120
"""Torch has to be there by then."""


def run_sections(
    sections: Sequence[Section],
    *,
    size: str,
    device: str,
    budget_s: float,
    output_dir: Path,
) -> Results:
    """Measure sections in order, and write what there is after each.

    Args:
        sections: What to measure.
        size: full, tiny, or auto: full on a GPU.
        device: cuda, cpu or auto.
        budget_s: Seconds in all.
        output_dir: Where to write.

    Raises:
        WorkerError: There is no such device.
    """
    end = time.monotonic() + budget_s
    with Worker(output_dir / "log.txt") as worker:
        machine = worker.ask("card.machine:describe_machine", device, _LOADING_S)
        assert isinstance(machine, dict)  # noqa: S101 - for the type checker
        device = str(machine["torch device"])
        if size == "auto":
            size = "tiny" if device == "cpu" else "full"
        results = Results(machine=machine, options={"size": size, "budget_s": budget_s})
        for section in sections:
            left_s = end - time.monotonic()
            if left_s < min(_LEAST_S, section.limit_s):
                results.sections.append(_skipped(section, budget_s))
            else:
                setup = Setup(size=size, device=device, figures=results.figures())
                timeout_s = min(section.limit_s, left_s)
                results.sections.append(worker.measure(section, setup, timeout_s))
            last = results.sections[-1]
            print(f"({last.letter}) {last.name}: {last.status}, {last.seconds:.0f} s", flush=True)
            write_text_atomic(output_dir / "results.json", results.to_json())
            write_text_atomic(output_dir / "table.md", results.to_markdown())
    return results


def _skipped(section: Section, budget_s: float) -> SectionResult:
    return SectionResult(
        letter=section.letter,
        name=section.name,
        status="skipped",
        reason=f"the {budget_s:g} s of this run were used up by the sections above",
    )


def _chosen(names: Sequence[str] | None) -> list[Section]:
    known = {section.name: section for section in SECTIONS}
    for name in names or ():
        if name not in known:
            raise SystemExit(f"error: no section {name!r}; there are {', '.join(known)}")
    return list(SECTIONS) if names is None else [known[name] for name in names]


def on_gpu(
    size: Literal["auto", "full", "tiny"] = "auto",
    device: Literal["auto", "cuda", "cpu"] = "auto",
    sections: list[str] | None = None,
    budget_s: float = 480,
    output_dir: Path = Path("runs/bench_gpu"),
) -> None:
    """Measure, and print the table.

    Args:
        size: full, as in the paper; or tiny, which only tries the script; auto is full on a GPU.
        device: cuda, cpu, or auto: cuda where there is any.
        sections: Names of the sections to measure, by default all.
        budget_s: Seconds in all, loading included.
        output_dir: Folder of ``table.md``, ``results.json`` and ``log.txt``.
    """
    try:
        results = run_sections(
            _chosen(sections), size=size, device=device, budget_s=budget_s, output_dir=output_dir
        )
    except WorkerError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"\n{results.to_markdown()}\nwritten to {output_dir}: table.md, results.json")
    if results.failed:
        raise SystemExit(f"error: failed: {', '.join(results.failed)}; the table says why")


if __name__ == "__main__":
    auto_cli(on_gpu, as_positional=False)
