"""What a trace of torch's profiler says about copies: when the host asked, when the device did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Copy:
    """One copy between host and device; times in microseconds of the trace."""

    kind: str
    """CUPTI's name for it, such as ``Memcpy HtoD (Pinned -> Device)``."""
    num_bytes: int
    host_end_us: float
    """When the host's call returned."""
    device_start_us: float
    device_end_us: float

    @property
    def was_left_to_the_device(self) -> bool:
        """Whether the host had gone on before the copy was complete."""
        return self.host_end_us < self.device_end_us


def copies_in(trace: Mapping[str, Any]) -> list[Copy]:
    """Return the copies of a Chrome trace that ``profile.export_chrome_trace`` wrote."""
    events: Sequence[Mapping[str, Any]] = trace["traceEvents"]
    returned = {
        event["args"]["correlation"]: event["ts"] + event["dur"]
        for event in events
        if event.get("cat") in {"cuda_runtime", "cuda_driver"}
        and "correlation" in event.get("args", {})
    }
    return [
        Copy(
            kind=event["name"],
            num_bytes=int(event["args"]["bytes"]),
            host_end_us=returned[event["args"]["correlation"]],
            device_start_us=event["ts"],
            device_end_us=event["ts"] + event["dur"],
        )
        for event in events
        if event.get("cat") == "gpu_memcpy" and event["args"]["correlation"] in returned
    ]
