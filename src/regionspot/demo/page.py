"""The layout of the page: what is shown where, and what each click asks `Answers`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from regionspot.core.geometry import FloatArray
from regionspot.core.text import needs_extra
from regionspot.demo.answers import Answers, Example
from regionspot.demo.downloads import Downloads
from regionspot.demo.events import ONE_AT_A_TIME, told
from regionspot.demo.search_tab import Search, search_tab
from regionspot.inference import Regions

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it at each use
with needs_extra("demo"):
    import gradio as gr
    from gradio_image_annotation import image_annotator

_HEADERS = ["#", "name", "score", "other names"]
_STEPS = """1. Pick an example picture, or upload one.
2. Drag a box around an object.
3. Read its name."""
_TINY = "**Tiny model of the toy world, without a download:** it knows drawn objects and {} words."
_HINT = "Drag a box over the picture: its name appears here."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """The regions that the page shows, for questions about one of them."""

    photo: Path
    """The picture file."""
    regions_xyxy: FloatArray
    """Their boxes, (R, 4)."""
    boxes: FloatArray | None = None
    """The boxes that were asked about, (R, 4); None for points."""
    points: FloatArray | None = None
    """The points that were asked about, (R, 2)."""
    selected: int = 0
    """The region whose attention is shown."""


class Page:
    """The page as a gradio application, ``blocks``.

    Args:
        answers: What answers the questions.
        words: Words in the list at first.
        pictures: Example pictures.
        folder: A folder for the files to download, which the caller removes.
        search: Finds regions of a cache; None leaves this tab out.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        words: Sequence[str],
        pictures: Sequence[Path],
        folder: Path,
        search: Search | None = None,
    ) -> None:
        self._answers = answers
        self._pictures = tuple(pictures)
        self._downloads = Downloads(folder)
        with gr.Blocks(
            title="RegionSpot", analytics_enabled=False, delete_cache=(600, 3600)
        ) as self.blocks:
            gr.Markdown("# Name any region")
            if known := answers.model.known_words:
                gr.Markdown(_TINY.format(len(known)))
            if search is None:
                self._show_naming(words)
            else:
                with gr.Tab("Name regions"):
                    self._show_naming(words)
                with gr.Tab("Search a cache"):
                    search_tab(search)

    def _show_naming(self, words: Sequence[str]) -> None:
        asked, points, examples = gr.State(None), gr.State([]), gr.State([])
        gr.Markdown(_STEPS)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                gallery = gr.Gallery(
                    [str(path) for path in self._pictures],
                    label="Example pictures",
                    show_label=False,
                    columns=6,
                    allow_preview=False,
                    buttons=[],
                    visible=bool(self._pictures),
                    elem_id="pictures",
                )
                with gr.Tab("Boxes"):
                    drawing = image_annotator(
                        label="Drag boxes over the picture",
                        disable_edit_boxes=True,
                        sources=["upload", "clipboard"],
                        show_download_button=False,
                        show_share_button=False,
                        box_min_size=4,
                        boxes_alpha=0.1,
                        elem_id="drawing",
                    )
                    # Its own reading raises Pillow's errors: `Answers` reads the file itself.
                    drawing.preprocess_image = _path_of
                with gr.Tab("Points"):
                    clicked = gr.Image(
                        label="Click on objects",
                        interactive=False,
                        buttons=[],
                        elem_id="clicked",
                    )
                    forget_points = gr.Button("Remove the points", size="sm")
                everything = gr.Button(
                    "Let SAM propose regions", elem_id="everything", elem_classes="answer"
                )
            with gr.Column(scale=3, min_width=320, elem_classes="answer"):
                picture = gr.Image(
                    label="Named regions",
                    show_label=False,
                    interactive=False,
                    format="png",
                    buttons=["fullscreen"],
                    elem_id="named",
                )
                note = gr.Markdown(elem_id="note")
                table = gr.Dataframe(
                    headers=_HEADERS,
                    label="Names; click a row to see what its region attends to",
                    interactive=False,
                    wrap=True,
                    column_widths=["12%", "32%", "22%", "34%"],
                    elem_id="names",
                )
                with gr.Row():
                    files = [
                        gr.DownloadButton(text, size="sm", min_width=90)
                        for text in ("JSON", "COCO", "Picture")
                    ]
            with gr.Column(scale=2, min_width=320, elem_classes="answer"):
                heat = gr.Image(
                    label="What the region attends to",
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id="attention",
                )
                caption = gr.Markdown()
                text = gr.Textbox(
                    "\n".join(words),
                    label="Words, one name a line",
                    lines=8,
                    max_lines=12,
                    elem_id="words",
                )
                again = gr.Button("Use these words", variant="primary", elem_id="again")
                if known := self._answers.model.known_words:
                    with gr.Accordion(f"The {len(known)} words that it knows", open=False):
                        gr.Markdown(", ".join(known), elem_id="known")
                with gr.Accordion("Names by example", open=False):
                    name = gr.Textbox(label="Name of the selected region", max_lines=1)
                    with gr.Row():
                        add = gr.Button("Add as an example", size="sm")
                        forget = gr.Button("Remove the examples", size="sm")
                    listed = gr.Markdown()

        shown = [picture, table, note, heat, caption, *files, asked]
        public: dict[str, Any] = {**ONE_AT_A_TIME, "show_progress_on": picture}
        private = {**public, "api_visibility": "private"}
        drawing.change(
            self.name_boxes,
            [drawing, text, examples],
            shown,
            **public,
            api_name="name_boxes",
            trigger_mode="always_last",
        ).success(self.show_photo, [drawing, asked], [clicked, points], **private)
        gallery.select(self.pick, None, drawing, **private)
        clicked.select(
            self.name_point, [drawing, points, text, examples], [clicked, points, *shown], **private
        )
        forget_points.click(self.show_photo, [drawing, asked], [clicked, points], **private)
        everything.click(self.name_everything, [drawing, text, examples], shown, **private)
        again.click(self.name_again, [asked, text, examples], shown, **private)
        table.select(self.select, [asked], [heat, caption, asked], **private)
        add.click(
            self.add_example, [asked, name, examples], [examples, listed, name], **private
        ).success(self.name_again, [asked, text, examples], shown, **private)
        forget.click(lambda: ([], ""), None, [examples, listed], **private).then(
            self.name_again, [asked, text, examples], shown, **private
        )

    def name_boxes(
        self, drawing: dict[str, Any] | None, words: str, examples: list[Example]
    ) -> list[Any]:
        """Name the boxes that are drawn, but for one without an area, which is just begun."""
        if drawing is None or drawing["image"] is None:
            return _nothing()
        sides = ("xmin", "ymin", "xmax", "ymax")
        boxes = [[box[side] for side in sides] for box in drawing["boxes"]]
        boxes_xyxy = np.array(boxes, np.float32).reshape(-1, 4)
        has_area = (boxes_xyxy[:, :2] != boxes_xyxy[:, 2:]).all(axis=1)
        return self._name(_photo(drawing), words, examples, boxes=boxes_xyxy[has_area])

    def name_point(
        self,
        drawing: dict[str, Any],
        points: list[list[int]],
        words: str,
        examples: list[Example],
        click: gr.SelectData,
    ) -> list[Any]:
        """Name the regions of all clicked points, with one more."""
        more = [*points, [int(value) for value in click.index]]
        photo = _photo(drawing)
        answer = self._name(photo, words, examples, points=np.array(more))
        return [self._with_points(photo, more), more, *answer]

    def name_everything(
        self, drawing: dict[str, Any] | None, words: str, examples: list[Example]
    ) -> list[Any]:
        """Name the regions that SAM proposes."""
        if drawing is None:
            raise gr.Error("There is no picture: upload one, or pick an example.")
        return self._name(_photo(drawing), words, examples)

    def name_again(self, asked: Asked | None, words: str, examples: list[Example]) -> list[Any]:
        """Name the same regions by other words or examples."""
        if asked is None:
            return _nothing()
        return self._name(asked.photo, words, examples, boxes=asked.boxes, points=asked.points)

    def select(self, asked: Asked | None, click: gr.SelectData) -> list[Any]:
        """Show what a region attends to."""
        if asked is None or len(asked.regions_xyxy) == 0:
            return [None, "", asked]
        row = int(click.index[0])
        return [*self._attention(asked, row), replace(asked, selected=row)]

    def add_example(self, asked: Asked | None, name: str, examples: list[Example]) -> list[Any]:
        """Add the selected region as an example."""
        if asked is None or len(asked.regions_xyxy) == 0:
            raise gr.Error("There is no region: draw a box first.")
        limit = self._answers.limits.max_examples
        if len(examples) >= limit:
            raise gr.Error(f"There are {limit} examples already, which is the limit.")
        with told():
            box = asked.regions_xyxy[asked.selected]
            more = [*examples, self._answers.example(asked.photo, name, box)]
        return [more, "Examples: " + ", ".join(one.name for one in more), ""]

    def show_photo(self, drawing: dict[str, Any] | None, asked: Asked | None) -> list[Any]:
        """Show the photo for clicking, without points."""
        if drawing is None or asked is None:
            return [None, []]
        return [self._with_points(asked.photo, []), []]

    def pick(self, click: gr.SelectData) -> dict[str, Any]:
        """Open an example picture."""
        return {"image": str(self._pictures[int(click.index)]), "boxes": []}

    def _name(
        self,
        photo: Path,
        words: str,
        examples: list[Example],
        *,
        boxes: FloatArray | None = None,
        points: FloatArray | None = None,
    ) -> list[Any]:
        with told():
            answer = self._answers.name(
                photo, words=words, examples=examples, boxes=boxes, points=points
            )
            regions = answer.regions
            given = boxes is not None or points is not None
            asked = Asked(
                photo=photo,
                regions_xyxy=regions.boxes_xyxy,
                boxes=boxes if given else regions.boxes_xyxy,
                points=points,
                # The annotator puts the newest box first; the newest point is the last.
                selected=0 if points is None else len(regions) - 1,
            )
            heat, caption = (None, "")
            if len(regions):
                heat, caption = self._attention(asked, asked.selected)
        picture = regions.plot()
        files = self._downloads.write(regions, picture, file_name=photo.name)
        note = answer.note or ("" if len(regions) else _HINT)
        return [picture, _rows(regions), note, heat, caption, *files, asked]

    def _attention(self, asked: Asked, row: int) -> tuple[Image.Image, str]:
        with told():
            return self._answers.attention(
                asked.photo,
                row,
                boxes=asked.boxes,
                points=asked.points,
                box_xyxy=asked.regions_xyxy[row],
            )

    def _with_points(self, photo: Path, points: list[list[int]]) -> Image.Image:
        with told():
            picture = Image.fromarray(self._answers.open(photo).pixels)
        draw = ImageDraw.Draw(picture)
        radius = max(2, min(picture.size) // 60)
        for point in points:
            draw.circle(point, radius, fill="white", outline="black", width=max(1, radius // 3))
        return picture


def _nothing() -> list[Any]:
    """Return an empty answer."""
    return [None, [], "", None, "", None, None, None, None]


def _path_of(image: Any) -> str | None:
    """Return the path of an upload."""
    return None if image is None else str(image.path)


def _photo(drawing: dict[str, Any]) -> Path:
    return Path(str(drawing["image"]))


def _rows(regions: Regions) -> list[list[str]]:
    """Return the table: region, name, score, other names."""
    return [
        [
            str(row + 1),
            labels[0],
            f"{scores[0]:.0%}",
            ", ".join(
                f"{label} {score:.0%}" for label, score in zip(labels[1:], scores[1:], strict=True)
            ),
        ]
        for row, (labels, scores) in enumerate(
            zip(regions.top_labels, regions.top_scores.tolist(), strict=True)
        )
    ]
