"""The tab that finds regions of a cache by words."""

from collections.abc import Callable

from PIL import Image

from regionspot.core.text import needs_extra
from regionspot.demo.events import ONE_AT_A_TIME, told

with needs_extra("demo"):
    import gradio as gr

Search = Callable[[str], tuple[str, Image.Image | None]]
"""Words in; a table of regions as Markdown, and a picture of them if the images are known, out."""


def search_tab(search: Search) -> None:
    """Lay out the tab in the open block.

    Args:
        search: Finds the regions.
    """
    with gr.Row():
        query = gr.Textbox(label="Find regions by words", max_lines=1, elem_id="query")
        find = gr.Button("Search", scale=0, variant="primary")
    sheet = gr.Image(
        label="Regions, best first",
        show_label=False,
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id="sheet",
    )
    hits = gr.Markdown(elem_id="hits")

    def found(words: str) -> tuple[str, Image.Image | None]:
        with told():
            return search(words)

    gr.on(
        [find.click, query.submit],
        found,
        query,
        [hits, sheet],
        **ONE_AT_A_TIME,
        api_visibility="private",
    )
