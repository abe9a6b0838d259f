"""Finds the class names, images and label files of a data set in YOLO format.

The names are in a ``data.yaml`` (Ultralytics, Roboflow) or in a text file with one name per line
(``classes.txt``, ``obj.names``: labelImg, Label Studio, CVAT). Every image may have a label file.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

import yaml

from regionspot.annotations.assembly import vocabulary_of
from regionspot.annotations.detect_format import wrong_file
from regionspot.annotations.opening import open_hashed
from regionspot.annotations.options import Source
from regionspot.annotations.report import few
from regionspot.core.errors import AnnotationError, ConfigError, MissingFileError
from regionspot.core.vocabulary import Vocabulary

YAML_SUFFIXES: Final = (".yaml", ".yml")
NAMES_SUFFIXES: Final = (".txt", ".names")
SPLITS: Final = ("train", "val", "valid", "test")
"""Names of splits: keys of ``data.yaml``, or folders."""
IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True, kw_only=True)
class YoloLayout:
    """Where everything is; N images."""

    vocabulary: Vocabulary
    """The class names."""
    category_ids: tuple[int, ...]
    """The number that label files give each class."""
    file_names: Sequence[str]
    """Paths of the images relative to the images folder, N, with ``/`` between folders."""
    label_paths: Sequence[Path]
    """Label file of each image, N; it need not exist."""
    sha256: str
    """SHA-256 of the file of names, in hex."""
    num_keypoint_values: int = 0
    """Values after the box on each line (``kpt_shape``)."""
    notes: tuple[str, ...] = ()
    """What else users should know, one sentence each."""


def find_layout(source: Source) -> YoloLayout:
    """Read the file of names and list the images of a split.

    Raises:
        ConfigError: The images folder is not on this machine, or there are several splits and no
            ``split`` chooses one, or there is no such split.
        MissingFileError: A file or folder does not exist.
        AnnotationError: The file is neither a ``data.yaml`` nor a list of names, or lists an image
            outside the images folder.
        VocabularyError: A class name is empty or occurs twice.
    """
    if source.images_dir is None:
        raise ConfigError(
            "the labels of the format yolo are files beside the images; wanted a local folder. Copy"
            " the data set, and set --annotations.images_dir to its folder."
        )
    suffix = source.path.suffix.lower()
    if source.path.is_dir() or suffix not in YAML_SUFFIXES + NAMES_SUFFIXES:
        wanted = "data.yaml, or a text file with one class name per line (classes.txt, obj.names)"
        raise wrong_file(source.path, "yolo", wanted)
    with open_hashed(source.path, "yaml" if suffix in YAML_SUFFIXES else "txt") as file:
        data = file.read(-1)
    folder = Path(os.path.abspath(source.images_dir))  # noqa: PTH100 - keeps symbolic links
    images = _Images(folder, source.path)
    num_keypoint_values = 0
    if suffix in YAML_SUFFIXES:
        content = _read_yaml(data, source.path)
        ids, names = _names_of(content, source.path)
        num_keypoint_values = _num_keypoint_values(content, source.path)
        found = images.of_yaml(content, source.options.split)
    else:
        names = list(Vocabulary.from_file(source.path))
        ids = list(range(len(names)))
        found = images.of_folder(source.options.split)
    vocabulary, category_ids = vocabulary_of(ids, names, source.path)
    if not found:
        raise AnnotationError(
            f"{source.path}: there is no image in {images.looked_in}. Wanted files that end in"
            f" {', '.join(IMAGE_SUFFIXES)}. Check --annotations.images_dir."
        )
    label_paths = label_paths_of([folder / name for name in found])
    return YoloLayout(
        vocabulary=vocabulary,
        category_ids=category_ids,
        file_names=found,
        label_paths=label_paths,
        sha256=file.sha256,
        num_keypoint_values=num_keypoint_values,
        notes=() if images.is_list else _without_image(label_paths, source.path),
    )


def label_paths_of(images: Sequence[Path]) -> list[Path]:
    """Return where the label file of each image is.

    As in Ultralytics, the last folder ``images`` of the path becomes ``labels``; if there is no
    such folder, the label file is beside the image.
    """
    folders = {folder: _label_folder(folder) for folder in {image.parent for image in images}}
    return [folders[image.parent] / f"{image.stem}.txt" for image in images]


def _label_folder(folder: Path) -> Path:
    parts = folder.parts
    if "images" in parts:
        place = len(parts) - 1 - parts[::-1].index("images")
        swapped = Path(*parts[:place], "labels", *parts[place + 1 :])
        if swapped.is_dir():
            return swapped
    return folder


def _without_image(label_paths: Sequence[Path], names_path: Path) -> tuple[str, ...]:
    known = {*label_paths, Path(os.path.abspath(names_path))}  # noqa: PTH100
    strays = [
        path
        for folder in sorted({path.parent for path in label_paths})
        for path in sorted(folder.glob("*.txt"))
        if path not in known and path.name not in {"classes.txt", "train.txt", "val.txt"}
    ]
    return (f"{len(strays):,} label files have no image: {few(strays)}",) if strays else ()


def images_below(folder: Path) -> Iterator[Path]:
    """Yield all image files in a folder and the folders below it, sorted by path."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (
            Path(place, name)
            for name in sorted(names)
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        )


class _Images:
    """Lists the images of a split; ``folder`` is absolute."""

    def __init__(self, folder: Path, path: Path) -> None:
        self._folder, self._path = folder, path
        self.looked_in = str(folder)
        self.is_list = False
        """Whether a text file lists the images."""

    def of_yaml(self, content: Mapping[str, object], split: str | None) -> list[str]:
        """Return the images of a split of ``data.yaml``, whose ``path`` is the images folder."""
        entries = {name: content[name] for name in SPLITS if content.get(name)}
        if not entries:
            raise AnnotationError(
                f"{self._path} has none of the keys {', '.join(SPLITS)}; wanted train: and the"
                " folder of its images."
            )
        is_needed = len(set(map(str, entries.values()))) > 1
        chosen = self._chosen(split, list(entries), is_needed=is_needed) or next(iter(entries))
        entry = entries[chosen]
        places = entry if isinstance(entry, list) else [entry]
        if not all(isinstance(place, str) for place in places):
            raise AnnotationError(
                f"{self._path}: {chosen} is {str(entry)[:60]}; wanted a folder of images, a text"
                " file that lists images, or a list of these."
            )
        return self._unique(image for place in places for image in self._at(str(place), chosen))

    def of_folder(self, split: str | None) -> list[str]:
        """Return the images of a folder without ``data.yaml``."""
        below = self._folder / "images"
        base = below if below.is_dir() else self._folder
        lists = {name: self._path.parent / f"{name}.txt" for name in SPLITS}
        found = {name: base / name for name in SPLITS if (base / name).is_dir()}
        found |= {name: path for name, path in lists.items() if path.is_file()}
        chosen = self._chosen(split, list(found), is_needed=len(found) > 1)
        return self._unique(self._at(str(found[chosen] if chosen else base), chosen))

    def _chosen(self, split: str | None, found: Sequence[str], *, is_needed: bool) -> str | None:
        if split is None and is_needed:
            raise ConfigError(
                f"{self._path} has the splits {', '.join(found)}. Set --annotations.split to one of"
                " them, and make a cache of each."
            )
        if split is not None and split not in found:
            has = f"the splits {', '.join(found)}" if found else "no splits"
            raise ConfigError(f"--annotations.split is {split}, but {self._path} has {has}.")
        return split

    def _at(self, entry: str, split: str | None) -> Iterator[Path]:
        """Yield the images in a folder, or those that a text file lists."""
        # Roboflow writes ../train/images although the folder is beside data.yaml.
        places = [self._folder / entry, self._folder / entry.removeprefix("../")]
        place = next((one for one in map(_normal, places) if one.exists()), None)
        if place is None:
            raise MissingFileError(
                f"{self._path}: {split or 'the split'} is {entry}, but there is no {places[0]}. Set"
                " --annotations.images_dir to the folder that it is relative to."
            )
        self.looked_in = str(place)
        if place.is_dir():
            yield from images_below(place)
            return
        self.is_list = True
        for line in place.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines():
            if line.strip():
                # CVAT writes data/ before paths; others write paths relative to the list.
                name = line.strip()
                spelled = (
                    *(self._folder / name, place.parent / name),
                    self._folder / name.removeprefix("data/"),
                )
                yield next((one for one in spelled if one.is_file()), spelled[0])

    def _unique(self, images: Iterator[Path]) -> list[str]:
        return list(dict.fromkeys(map(self._relative, images)))

    def _relative(self, image: Path) -> str:
        normal = _normal(image)
        if not normal.is_relative_to(self._folder):
            raise AnnotationError(
                f"{self._path}: the image {image} is not below {self._folder}. Set"
                " --annotations.images_dir to a folder that contains all images."
            )
        return normal.relative_to(self._folder).as_posix()


def _normal(path: PurePath) -> Path:
    return Path(os.path.normpath(path))


def _read_yaml(data: bytes, path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise AnnotationError(
            f"{path} is not a YAML file: {' '.join(str(error).split())[:200]}"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("names"), list | dict):
        keys = ", ".join(map(str, list(content)[:6])) if isinstance(content, dict) else "no keys"
        raise AnnotationError(
            f"{path} has no list of class names (keys: {keys}); wanted the data.yaml of a YOLO data"
            " set, with names: and train:. Set --annotations.path to it."
        )
    return content


def _names_of(content: Mapping[str, Any], path: Path) -> tuple[list[int], list[str]]:
    names = content["names"]
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    ids: list[int] = []
    texts: list[str] = []
    for number, name in pairs:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise AnnotationError(f"{path}: names has the key {number!r}; wanted 0, 1, 2, ...")
        if not isinstance(name, str):
            raise AnnotationError(
                f"{path}: class {number} is {name!r}; wanted text. YAML reads words such as no and"
                " on, and numbers, as other values: put the name in quotes."
            )
        ids.append(number)
        texts.append(name.strip())
    num_classes = content.get("nc", len(texts))
    if num_classes != len(texts):
        raise AnnotationError(
            f"{path}: nc is {num_classes}, but names has {len(texts)} names. Correct one of them."
        )
    return ids, texts


def _num_keypoint_values(content: Mapping[str, object], path: Path) -> int:
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) for n in shape):
        return int(shape[0] * shape[1])
    raise AnnotationError(f"{path}: kpt_shape is {shape}; wanted two numbers, such as [17, 3].")
