"""What all events of the page share: one runs at a time, and errors are shown to the visitor."""

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from regionspot.core.errors import RegionSpotError
from regionspot.core.text import needs_extra

with needs_extra("demo"):
    import gradio as gr

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
"""Options of every event that runs the model."""


@contextmanager
def told() -> Iterator[None]:
    """Show errors meant for the user on the page."""
    try:
        yield
    except RegionSpotError as error:
        message = escape(str(error), quote=False)  # gradio shows HTML
        raise gr.Error(message[:1].upper() + message[1:], print_exception=False) from error
