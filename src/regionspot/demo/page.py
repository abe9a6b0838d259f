"""The layout of the page: what is shown where, and what each click asks `Answers`."""

import json
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from regionspot.core.errors import RegionSpotError
from regionspot.core.geometry import FloatArray
from regionspot.core.text import needs_extra
from regionspot.demo.answers import Answer, Answers, Example
from regionspot.inference import Regions

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
with needs_extra("demo"):
    import gradio as gr
    from gradio_image_annotation import image_annotator

Search = Callable[[str], tuple[str, Image.Image | None]]
"""Words in; a table of regions as Markdown, and a picture of them if the images are known, out."""

_ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}
_NUM_KEPT_FILES = 100
"""Answers whose files are kept."""
_HEADERS = ["#", "name", "score", "other names"]
_INTRO = """# Name any region
Draw boxes, click points, or let SAM propose regions. The names come from the list of words, which
you can change, or from regions that you add as examples."""


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
        self._folder = folder
        self._written: deque[Path] = deque()
        with gr.Blocks(
            title="RegionSpot", analytics_enabled=False, delete_cache=(600, 3600)
        ) as self.blocks:
            gr.Markdown(_INTRO)
            if answers.model.known_words:
                _show_known_words(answers.model.known_words)
            with gr.Tab("Name regions"):
                self._naming_tab(words)
            if search is not None:
                with gr.Tab("Search a cache"):
                    _searching_tab(search)

    def _naming_tab(self, words: Sequence[str]) -> None:
        asked, points, examples = gr.State(None), gr.State([]), gr.State([])
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                with gr.Tab("Boxes"):
                    drawing = image_annotator(
                        label="Upload a picture, then drag boxes over it",
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
                        label="Click on what you want to have named",
                        interactive=False,
                        buttons=[],
                        elem_id="clicked",
                    )
                    forget_points = gr.Button("Remove the points", size="sm")
                everything = gr.Button("Let SAM propose regions", elem_id="everything")
                gallery = gr.Gallery(
                    [str(path) for path in self._pictures],
                    label="Example pictures",
                    columns=3,
                    height="auto",
                    allow_preview=False,
                    buttons=[],
                    visible=bool(self._pictures),
                    elem_id="pictures",
                )
            with gr.Column(scale=3, min_width=320):
                picture = gr.Image(
                    label="Named regions",
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
                    column_widths=["10%", "33%", "18%", "39%"],
                    elem_id="names",
                )
                with gr.Row():
                    files = [
                        gr.DownloadButton(text, size="sm", min_width=90)
                        for text in ("JSON", "COCO", "Picture")
                    ]
            with gr.Column(scale=2, min_width=320):
                text = gr.Textbox(
                    "\n".join(words),
                    label="Words, one name a line",
                    lines=8,
                    max_lines=12,
                    elem_id="words",
                )
                again = gr.Button("Use these words", variant="primary", elem_id="again")
                heat = gr.Image(
                    label="Attention of the region",
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id="attention",
                )
                caption = gr.Markdown()
                with gr.Accordion("Names by example", open=False):
                    name = gr.Textbox(label="Name of the selected region", max_lines=1)
                    with gr.Row():
                        add = gr.Button("Add as an example", size="sm")
                        forget = gr.Button("Remove the examples", size="sm")
                    listed = gr.Markdown()

        shown = [picture, table, note, heat, caption, *files, asked]
        of_boxes: dict[str, Any] = {
            "fn": self.name_boxes,
            "inputs": [drawing, text, examples],
            "outputs": shown,
            **_ONE_AT_A_TIME,
        }
        private: dict[str, Any] = {**_ONE_AT_A_TIME, "api_visibility": "private"}
        drawing.change(**of_boxes, api_name="name_boxes", trigger_mode="always_last").success(
            self.show_photo, [drawing, asked], [clicked, points], **private
        )
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
        with _told():
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
        with _told():
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
                selected=max(0, len(regions) - 1 if given else 0),
            )
            heat, caption = (None, "")
            if len(regions):
                heat, caption = self._attention(asked, asked.selected)
        picture = regions.plot()
        files = self._write_files(answer, picture, photo.name)
        return [picture, _rows(regions), answer.note, heat, caption, *files, asked]

    def _attention(self, asked: Asked, row: int) -> tuple[Image.Image, str]:
        with _told():
            return self._answers.attention(
                asked.photo,
                row,
                boxes=asked.boxes,
                points=asked.points,
                box_xyxy=asked.regions_xyxy[row],
            )

    def _with_points(self, photo: Path, points: list[list[int]]) -> Image.Image:
        with _told():
            picture = Image.fromarray(self._answers.open(photo).pixels)
        draw = ImageDraw.Draw(picture)
        radius = max(2, min(picture.size) // 60)
        for point in points:
            draw.circle(point, radius, fill="white", outline="black", width=max(1, radius // 3))
        return picture

    def _write_files(self, answer: Answer, picture: Image.Image, name: str) -> list[str]:
        """Write the files to download, and remove old ones, which gradio has copied."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        self._written.append(folder)
        if len(self._written) > _NUM_KEPT_FILES:
            shutil.rmtree(self._written.popleft(), ignore_errors=True)
        paths = [folder / name for name in ("regions.json", "regions_coco.json", "regions.png")]
        contents = (answer.regions.to_dict(), answer.regions.to_coco(file_name=name))
        for path, content in zip(paths, contents, strict=False):
            path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        picture.save(paths[-1])
        return [str(path) for path in paths]


def _searching_tab(search: Search) -> None:
    with gr.Row():
        query = gr.Textbox(label="Find regions by words", max_lines=1, elem_id="query")
        find = gr.Button("Search", scale=0, variant="primary")
    sheet = gr.Image(label="Regions, best first", interactive=False, buttons=["download"])
    hits = gr.Markdown(elem_id="hits")

    def found(words: str) -> tuple[str, Image.Image | None]:
        with _told():
            return search(words)

    gr.on(
        [find.click, query.submit],
        found,
        query,
        [hits, sheet],
        **_ONE_AT_A_TIME,
        api_visibility="private",
    )


def _show_known_words(words: Sequence[str]) -> None:
    gr.Markdown(
        "**This is the tiny model of the toy world.** It knows drawn objects, and no other words"
        " than those listed here."
    )
    with gr.Accordion(f"The {len(words)} words that it knows", open=False):
        gr.Markdown(", ".join(words), elem_id="known")


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
            f"{scores[0]:.1%}",
            ", ".join(
                f"{label} {score:.1%}" for label, score in zip(labels[1:], scores[1:], strict=True)
            ),
        ]
        for row, (labels, scores) in enumerate(
            zip(regions.top_labels, regions.top_scores.tolist(), strict=True)
        )
    ]


@contextmanager
def _told() -> Iterator[None]:
    """Show errors meant for the user on the page."""
    try:
        yield
    except RegionSpotError as error:
        message = str(error)
        raise gr.Error(message[:1].upper() + message[1:], print_exception=False) from error
