"""The reading of profiler traces, on which `tests/gpu` relies."""

from helpers.traces import Copy, copies_in

# As torch writes it: https://docs.nvidia.com/cupti gives calls and copies one correlation.
TRACE = {
    "traceEvents": [
        {
            "cat": "cuda_runtime",
            "name": "cudaMemcpyAsync",
            "ts": 10.0,
            "dur": 5.0,
            "args": {"correlation": 7},
        },
        {
            "cat": "gpu_memcpy",
            "name": "Memcpy HtoD (Pinned -> Device)",
            "ts": 12.0,
            "dur": 100.0,
            "args": {"correlation": 7, "bytes": 4096},
        },
        {
            "cat": "cuda_runtime",
            "name": "cudaMemcpyAsync",
            "ts": 200.0,
            "dur": 50.0,
            "args": {"correlation": 8},
        },
        {
            "cat": "gpu_memcpy",
            "name": "Memcpy HtoD (Pageable -> Device)",
            "ts": 210.0,
            "dur": 20.0,
            "args": {"correlation": 8, "bytes": 70000},
        },
        {"cat": "kernel", "name": "gemm", "ts": 0.0, "dur": 9.0, "args": {"correlation": 9}},
        {"ph": "M", "name": "process_name", "ts": 0, "args": {"name": "python"}},
    ]
}


def test_a_copy_is_left_to_the_device_if_its_call_returns_before_it_ends() -> None:
    assert copies_in(TRACE) == [
        Copy(
            kind="Memcpy HtoD (Pinned -> Device)",
            num_bytes=4096,
            host_end_us=15.0,
            device_start_us=12.0,
            device_end_us=112.0,
        ),
        Copy(
            kind="Memcpy HtoD (Pageable -> Device)",
            num_bytes=70000,
            host_end_us=250.0,
            device_start_us=210.0,
            device_end_us=230.0,
        ),
    ]
    assert [copy.was_left_to_the_device for copy in copies_in(TRACE)] == [True, False]
