"""Serves the page on this machine: no share link, no telemetry, nothing fetched from elsewhere."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from regionspot.core.errors import ConfigError
from regionspot.core.stopping import safe_points, sleep
from regionspot.demo.limits import Limits
from regionspot.demo.look import CSS, THEME
from regionspot.demo.page import Page

_MAX_VISITORS = 200
"""Browser tabs whose examples and points are kept."""


@contextmanager
def serving(page: Page, *, host: str, port: int, limits: Limits) -> Iterator[str]:
    """Serve a page in this block.

    Args:
        page: The page.
        host: Address to listen on; 127.0.0.1 is reachable from this machine only.
        port: Port to listen on; see `check_free`.
        limits: Size of uploads and number of waiting requests.

    Yields:
        The URL.
    """
    blocks = page.blocks.queue(
        max_size=limits.max_waiting,
        default_concurrency_limit=1,
        api_open=False,  # else requests can pass the queue by
    )
    _, url, _ = blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,  # unforeseen errors are printed here, not shown to visitors
        max_file_size=int(limits.max_upload_mb * 1e6),
        state_session_capacity=_MAX_VISITORS,
        enable_monitoring=False,
        ssr_mode=False,
        footer_links=[],
        theme=THEME,
        css=CSS,
    )
    try:
        yield url
    finally:
        blocks.close(verbose=False)


def serve_until_stopped(page: Page, *, host: str, port: int, limits: Limits) -> None:
    """Serve a page until Ctrl-C; arguments and errors as in `serving`.

    Raises:
        StoppedError: Ctrl-C or SIGTERM ended it.
    """
    with serving(page, host=host, port=port, limits=limits) as url, safe_points():
        print(f"{url} (Ctrl-C ends it)", flush=True)  # noqa: T201 - the command's output
        while True:
            sleep(1)


def check_free(host: str, port: int) -> None:
    """Check that a server can listen there.

    Raises:
        ConfigError: Another program listens there, or the address is not of this machine.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} ({error}): give another --port or --host."
            ) from error
