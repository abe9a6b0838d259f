"""Names the boxes of an image with exported ONNX files: only numpy, onnxruntime and Pillow.

    regionspot export runs/quickstart --chain true --output exported
    python examples/onnx_runner.py exported photo.jpg "92,60,144,123 54,68,107,111"

Boxes are ``x1,y1,x2,y2`` in pixels of the image. For other names, write their embeddings once and
pass them as the last argument:

    regionspot export runs/quickstart --output words.npz --vocabulary words.txt
    python examples/onnx_runner.py exported photo.jpg "92,60,144,123" words.npz
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

Floats = NDArray[np.float32]
STEPS = ("sam_encoder", "token_decoder", "clip_encoder", "head")
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedBoxes:
    """The boxes of one image; row ``i`` of every array belongs to box ``i``."""

    names: tuple[str, ...]
    """The names to choose from, C of them."""
    probabilities: Floats
    """Probability of each name, (R, C)."""
    embeddings: Floats
    """Embeddings in CLIP's text space, (R, E), not normalised."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The most probable name of each box."""
        return tuple(self.names[index] for index in self.probabilities.argmax(axis=1))


class OnnxRunner:
    """Runs the files of ``regionspot export --chain true``.

    Args:
        folder: The folder that was exported.
        text_bank: Other names: a ``.npz`` file of ``regionspot export``; by default the folder's.
        num_threads: Threads of onnxruntime; 0 takes all cores.

    Raises:
        ValueError: A file is damaged or missing, the folder was written by another version, or the
            names were embedded by another CLIP.
    """

    def __init__(
        self, folder: str | Path, text_bank: str | Path | None = None, *, num_threads: int = 0
    ) -> None:
        folder = Path(folder)
        self._manifest = read_manifest(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self._sessions = {
            step: onnxruntime.InferenceSession(
                str(folder / f"{step}.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for step in STEPS
        }
        text_bank = text_bank or folder / "text_bank.npz"
        with np.load(text_bank, allow_pickle=False) as bank:
            if bank["clip_sha256"] != self._manifest["clip"]["sha256"]:
                raise ValueError(
                    f"{text_bank} holds embeddings of another CLIP than that of {folder}: write it"
                    " with the same head, regionspot export HEAD --output words.npz."
                )
            self.names = tuple(bank["names"].tolist())
            self._text = bank["embeddings"]

    def open_image(self, path: str | Path) -> Image.Image:
        """Open an image file, rotated by its EXIF orientation if the head was trained so."""
        image = Image.open(path)
        if self._manifest["exif_policy"] == "apply":
            ImageOps.exif_transpose(image, in_place=True)
        return image

    def recognize(self, image: Image.Image, boxes: ArrayLike) -> NamedBoxes:
        """Name the boxes of an image, which attend to each other.

        Args:
            image: The image; transparent pixels become white.
            boxes: Boxes (x1, y1, x2, y2), (R, 4), pixels of the image; clipped to it.

        Raises:
            ValueError: The boxes are not (R, 4), not finite, or one has no area in the image.
        """
        image = to_rgb(image)
        boxes_xyxy = clip_boxes(boxes, image.size)
        if len(boxes_xyxy) == 0:
            nothing = np.zeros((0, len(self.names)), np.float32)
            return NamedBoxes(
                names=self.names,
                probabilities=nothing,
                embeddings=np.zeros((0, self._text.shape[1]), np.float32),
            )
        sam, clip = self._manifest["sam"], self._manifest["clip"]
        frame_size = longest_side_size(image.size, sam["side_px"])
        (embedding,) = self._run("sam_encoder", pixels=to_pixels(image, frame_size, sam))
        ratios = np.divide(frame_size, image.size)[[0, 1, 0, 1]]
        (tokens,) = self._run(
            "token_decoder", image_embedding=embedding, boxes=(boxes_xyxy * ratios).astype("f4")
        )
        square = (clip["side_px"], clip["side_px"])
        (feature_map,) = self._run("clip_encoder", pixels=to_pixels(image, square, clip))
        _, probabilities, embeddings = self._run(
            "head",
            position_tokens=tokens[None],
            feature_map=feature_map,
            region_mask=np.ones((1, len(tokens)), np.bool_),
            text=self._text,
            boxes=(boxes_xyxy / np.array([*image.size, *image.size], "f4"))[None],
        )
        return NamedBoxes(
            names=self.names, probabilities=probabilities[0], embeddings=embeddings[0]
        )

    def _run(self, step: str, **inputs: NDArray[Any]) -> list[Floats]:
        """Run a step; inputs that it does not have are left out (boxes, of most heads)."""
        session = self._sessions[step]
        wanted = {one.name for one in session.get_inputs()}
        return session.run(None, {name: inputs[name] for name in wanted})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read ``export.json`` and compare every file with its checksum."""
    path = folder / "export.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} has no export.json: give a folder that `regionspot export HEAD --chain true"
            " --output FOLDER` has finished."
        )
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {manifest.get('format_version')}; wanted {FORMAT_VERSION}."
            " Use the runner of the version that exported it, or export again."
        )
    for name, wanted in manifest["files"].items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != wanted["sha256"]:
            raise ValueError(f"{folder / name} is damaged or was replaced: export again.")
    return manifest


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB, transparent pixels to white."""
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return image.convert("RGB")


def clip_boxes(boxes: ArrayLike, size: tuple[int, int]) -> Floats:
    """Return boxes, (R, 4) float32, clipped to an image of a size (width, height)."""
    given = np.asarray(boxes, np.float32)
    if given.size == 0:
        return np.zeros((0, 4), np.float32)
    if given.ndim != 2 or given.shape[1] != 4 or not np.isfinite(given).all():
        raise ValueError(f"boxes have shape {given.shape}; wanted finite x1, y1, x2, y2, (R, 4).")
    clipped = np.clip(given, 0, np.array([*size, *size], np.float32))
    empty = (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    if empty.any():
        row = int(empty.argmax())
        raise ValueError(
            f"box {row} {given[row].tolist()} has no area in the image of {size[0]} x {size[1]}"
            " pixels (width x height); wanted x1, y1, x2, y2 with x1 < x2 and y1 < y2."
        )
    return clipped


def longest_side_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the (width, height) of an image whose long side becomes ``side`` pixels."""
    scale = side / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def to_pixels(image: Image.Image, size: tuple[int, int], model: Mapping[str, Any]) -> Floats:
    """Resize an image to (width, height), normalise it, and pad it to the model's square input.

    Returns:
        (1, 3, side, side); the image is in the top left corner, and padding is 0.
    """
    resized = image.resize(size, Image.Resampling.BILINEAR) if image.size != size else image
    levels = np.asarray(resized, np.float32)
    normalised = (levels - np.array(model["mean"], "f4")) / np.array(model["std"], "f4")
    pixels = np.zeros((1, 3, model["side_px"], model["side_px"]), np.float32)
    pixels[0, :, : size[1], : size[0]] = normalised.transpose(2, 0, 1)
    return pixels


def main(words: list[str]) -> None:
    """Print the best names of the boxes that the command line gives."""
    if len(words) not in {3, 4}:
        raise SystemExit(__doc__)
    folder, picture, text, *text_bank = words
    runner = OnnxRunner(folder, *text_bank)
    boxes = [[float(number) for number in box.split(",")] for box in text.split()]
    named = runner.recognize(runner.open_image(picture), boxes)
    for box, label, row in zip(text.split(), named.labels, named.probabilities, strict=True):
        print(f"{label} {row.max():.0%} at {box}")


if __name__ == "__main__":
    main(sys.argv[1:])
