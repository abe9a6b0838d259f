"""How fast are images decoded and prepared, by which library, and by threads or by processes?

    python benchmarks/decode_images.py
    python benchmarks/decode_images.py --folder /path/to/photos --num_workers 2

On the JPEG photos below a folder and on toy images, in turn, several times:

- decoding to RGB: simplejpeg (what `decode_image` takes for usual JPEGs), Pillow, OpenCV and
  torchvision, and `decode_image` itself, which also checks the size and answers for every file;
- resizing the long side to 1024, as SAM sees it: Pillow (what we use), and the linear filters of
  OpenCV and of torch with antialias;
- all that is done to an image before the models (`Preparation.prepare`, at the full sizes of the
  preset bb), by one thread, by several, and by as many processes: the workers of a torch
  DataLoader, whose tensors travel in shared memory.

Libraries work with one thread here. Prints medians of milliseconds an image, how many times as fast
as the first of its table each is (the median over rounds), and the largest difference from Pillow,
in levels of 0 to 255.
"""

import io
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import simplejpeg
import torch
from jsonargparse import auto_cli
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg
from typing_extensions import override

from regionspot.annotations import ImageRecord
from regionspot.backbones import ModelsConfig, load_frozen_models, resize_bilinear
from regionspot.backbones.decode_images import ImageError, decode_image
from regionspot.cache import QuarantinedImage
from regionspot.extraction import Preparation, PreparedImage, RegionLocator
from regionspot.toy import generate_world

Pixels = NDArray[np.uint8]
T = TypeVar("T")
SAM_SIDE = 1024
PHOTOS = Path(__file__).parents[1] / "tests" / "data" / "photos"


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """JPEG files that every library can decode."""

    name: str
    folder: Path
    file_names: Sequence[str]

    @property
    def data(self) -> list[bytes]:
        """The files' bytes."""
        return [(self.folder / name).read_bytes() for name in self.file_names]

    @property
    def records(self) -> list[ImageRecord]:
        """One record without regions for each; the size is found out when it is decoded."""
        return [
            ImageRecord(
                key=f"{number}",
                image_id=number,
                file_name=name,
                annotated_size_hw=None,
                boxes_xyxy=np.full((1, 4), [0, 0, 1, 1], np.float32),
                labels=np.zeros(1, np.int64),
                box_unit="pixel",
            )
            for number, name in enumerate(self.file_names)
        ]


class PreparedInOrder(Dataset[PreparedImage | QuarantinedImage]):
    """What worker processes prepare."""

    def __init__(self, preparation: Preparation, records: Sequence[ImageRecord]) -> None:
        self._preparation, self._records = preparation, records

    @override
    def __getitem__(self, index: int) -> PreparedImage | QuarantinedImage:
        return self._preparation.prepare(self._records[index])

    def __len__(self) -> int:
        return len(self._records)


def by_pillow(data: bytes) -> Pixels:
    """Decode with Pillow."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def by_simplejpeg(data: bytes) -> Pixels:
    """Decode with simplejpeg."""
    pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
    return pixels


def by_opencv(data: bytes) -> Pixels:
    """Decode with OpenCV."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels: Pixels = cv2.cvtColor(
        cv2.imdecode(np.frombuffer(data, np.uint8), flags), cv2.COLOR_BGR2RGB
    )
    return pixels


def by_torchvision(data: bytes) -> Pixels:
    """Decode with torchvision."""
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels: Pixels = decode_jpeg(encoded, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
    return pixels


DECODERS: dict[str, Callable[[bytes], Pixels]] = {
    "Pillow": by_pillow,
    "simplejpeg": by_simplejpeg,
    "decode_image": decode_image,
    "OpenCV": by_opencv,
    "torchvision": by_torchvision,
}


def sam_size_hw(pixels: Pixels) -> tuple[int, int]:
    """Return the size with a long side of 1024."""
    scale = SAM_SIDE / max(pixels.shape[:2])
    return round(pixels.shape[0] * scale), round(pixels.shape[1] * scale)


def resize_by_opencv(pixels: Pixels) -> Pixels:
    """Resize with OpenCV; its linear filter has no antialias."""
    height, width = sam_size_hw(pixels)
    resized: Pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized


def resize_by_torch(pixels: Pixels) -> Pixels:
    """Resize with torch, in bytes; torchvision's own `resize` would go through float32."""
    levels = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized: Pixels = interpolate(
        levels, size=sam_size_hw(pixels), mode="bilinear", antialias=True
    ).numpy()
    return resized[0].transpose(1, 2, 0)


RESIZERS: dict[str, Callable[[Pixels], Pixels]] = {
    "Pillow": lambda pixels: resize_bilinear(pixels, sam_size_hw(pixels)),
    "OpenCV": resize_by_opencv,
    "torch": resize_by_torch,
}


def largest_difference(ours: Sequence[Pixels], theirs: Sequence[Pixels]) -> int:
    """Return the largest difference of any level of any image."""
    return max(
        int(np.abs(a.astype(np.int16) - b.astype(np.int16)).max())
        for a, b in zip(ours, theirs, strict=True)
    )


def on_each(function: Callable[[T], Pixels], inputs: Sequence[T]) -> None:
    """Do something to each input."""
    for one in inputs:
        function(one)


def interleaved(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Time each way in turn; the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def print_table(
    title: str,
    times: Mapping[str, Sequence[float]],
    num_images: int,
    differences: Mapping[str, int] | None = None,
) -> None:
    """Print one line a way; the first is what the others are compared with."""
    print(title)
    first = next(iter(times.values()))
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(first, seconds, strict=True))
        line = f"  {name:<14} {1000 * statistics.median(seconds) / num_images:8.2f} ms"
        line += f"  {ratio:5.2f} x"
        print(line if differences is None else f"{line}  {differences[name]:3d} levels off")


def find_photos(folder: Path) -> Pictures:
    """Return the JPEG files below a folder that are whole and of the usual kind."""
    names = []
    for path in sorted(folder.rglob("*.jpg")):
        data = path.read_bytes()
        try:
            decode_image(data)
        except ImageError:
            continue
        if Image.open(io.BytesIO(data)).mode == "RGB":
            names.append(str(path.relative_to(folder)))
    return Pictures(name="photos", folder=folder, file_names=names)


def draw_toy_images(folder: Path, num_images: int) -> Pictures:
    """Draw images of the toy world."""
    generate_world(folder, seed=1, num_val=num_images, num_train=1)
    names = sorted(str(path.relative_to(folder)) for path in (folder / "val").glob("*.jpg"))
    return Pictures(name="toy images", folder=folder, file_names=names)


def compare_libraries(pictures: Pictures, copies: int, repeats: int) -> None:
    """Print the tables of decoding and of resizing."""
    data = pictures.data
    decoded = {name: [decode(one) for one in data] for name, decode in DECODERS.items()}
    times = interleaved(
        {name: partial(on_each, decode, data * copies) for name, decode in DECODERS.items()},
        repeats,
    )
    exact = {n: largest_difference(found, decoded["Pillow"]) for n, found in decoded.items()}
    print_table(f"decoding, {pictures.name}", times, len(data) * copies, exact)
    images = [one.copy() for one in decoded["Pillow"]]  # torch wants to be able to write to them
    resized = {name: [way(one) for one in images] for name, way in RESIZERS.items()}
    times = interleaved(
        {name: partial(on_each, way, images * copies) for name, way in RESIZERS.items()},
        repeats,
    )
    exact = {n: largest_difference(found, resized["Pillow"]) for n, found in resized.items()}
    print_table(f"resizing to {SAM_SIDE}, {pictures.name}", times, len(images) * copies, exact)


def compare_workers(
    pictures: Pictures, preparation: Preparation, copies: int, repeats: int, num_workers: int
) -> None:
    """Print the table of threads and processes; workers are started before the clock runs."""
    records = pictures.records * copies
    loader = DataLoader(
        PreparedInOrder(preparation, records),
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=True,
    )
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(num_workers) as several:
        ways: dict[str, Callable[[], object]] = {
            "1 thread": lambda: list(one.map(preparation.prepare, records)),
            f"{num_workers} threads": lambda: list(several.map(preparation.prepare, records)),
            # One at a time, as a writer takes them: all at once would need a file each.
            f"{num_workers} processes": lambda: sum(1 for _ in loader),
        }
        times = interleaved(ways, repeats)
    print_table(f"preparing, {pictures.name}", times, len(records))


def benchmark(
    folder: Path = PHOTOS,
    num_toy_images: int = 32,
    num_photos: int = 12,
    repeats: int = 7,
    num_workers: int = 2,
) -> None:
    """Compare the libraries, then threads and processes.

    Args:
        folder: Folder to look for photos below; those of the tests by default, which are rendered.
        num_toy_images: Toy images of a round.
        num_photos: About how many photos a round has: those found, repeated.
        repeats: How often each way is timed, in turn, after one round that does not count.
        num_workers: Threads, and processes, that prepare.
    """
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    models = load_frozen_models(
        ModelsConfig(preset="bb", sam_weights="random", clip_weights="random"), device="cpu"
    )
    with tempfile.TemporaryDirectory() as temporary:
        photos = find_photos(folder)
        for pictures in (photos, draw_toy_images(Path(temporary), num_toy_images)):
            if not pictures.file_names:
                continue
            copies = max(1, num_photos // len(pictures.file_names))
            compare_libraries(pictures, copies, repeats)
            preparation = Preparation(
                images_dir=pictures.folder,
                exif_policy="ignore",
                locator=RegionLocator(localizer=models.localizer),
                encoder=models.encoder,
            )
            compare_workers(pictures, preparation, copies, repeats, num_workers)


if __name__ == "__main__":
    auto_cli(benchmark)
