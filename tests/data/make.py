"""Makes the files of this folder: `cd tests && python -m data.make` (README.md says what they are).

Names and numbers are made up; layouts, and what is odd about them, are those of the data sets.
"""

import json
import math
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.photos import encoded, photo_files

FOLDER = Path(__file__).parent
Json = dict[str, Any]

# --- Ground truth without images: COCO, LVIS --------------------------------------------------

COCO_CATEGORIES = {1: "kite", 2: "kettle", 4: "paddle", 7: "lantern", 11: "dog", 12: "wreath"}


def polygon(rng: random.Random, width: int, height: int) -> list[float]:
    """Return a ragged ellipse inside the image, to two digits."""
    reach_x, reach_y = (rng.uniform(0.03, 0.25) * side for side in (width, height))
    x, y = rng.uniform(reach_x, width - reach_x), rng.uniform(reach_y, height - reach_y)
    corners = rng.randrange(6, 15)
    flat: list[float] = []
    for corner in range(corners):
        angle, share = 2 * math.pi * corner / corners, rng.uniform(0.6, 1)
        flat += [
            round(x + share * reach_x * math.cos(angle), 2),
            round(y + share * reach_y * math.sin(angle), 2),
        ]
    return flat


def area_of(flat: Sequence[float]) -> float:
    """Return the area of a polygon of pairs of coordinates."""
    pairs = [*zip(flat[::2], flat[1::2], strict=True)]
    following = pairs[1:] + pairs[:1]
    return abs(sum(a * d - b * c for (a, b), (c, d) in zip(pairs, following, strict=True))) / 2


def box_of(polygons: Sequence[Sequence[float]]) -> list[float]:
    """Return x, y, width and height of polygons, to two digits."""
    xs = [value for flat in polygons for value in flat[::2]]
    ys = [value for flat in polygons for value in flat[1::2]]
    return [min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)]


def run_lengths(mask: NDArray[np.bool_]) -> Json:
    """Count down the columns, beginning with what is outside: COCO's run lengths of crowds."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, len(flat)]).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def ground_truth_images(rng: random.Random, number: int, year: str) -> list[Json]:
    """Return images of both orientations, their ids in no order."""
    images = []
    for image_id in rng.sample(range(900_000, 990_000), number):
        width, height = rng.choice([(320, 240), (213, 320), (320, 207)])
        images.append(
            {
                "license": rng.randrange(1, 3),
                "file_name": f"COCO_val2014_{image_id:012d}.jpg",
                "coco_url": f"http://images.cocodataset.org/val{year}/{image_id:012d}.jpg",
                "height": height,
                "width": width,
                "date_captured": "2026-01-02 03:04:05",
                "flickr_url": f"http://farm0.staticflickr.com/0/{image_id}_0_z.jpg",
                "id": image_id,
            }
        )
    return images


def info(description: str) -> Json:
    """Return what stands at the head of ground truth."""
    return {"description": description, "url": "", "version": "1.0", "year": 2026}


LICENSES = [{"url": "", "id": 1, "name": "made up"}, {"url": "", "id": 2, "name": "made up, too"}]


def coco_instances() -> Json:
    """Return COCO's ground truth: polygons of one part or two, crowds, an image without regions."""
    rng = random.Random(1)  # noqa: S311 - not for secrets
    images = ground_truth_images(rng, 12, "2014")
    annotations: list[Json] = []

    def add(image: Json, segmentation: object, area: float, box: list[float], crowd: int) -> None:
        annotations.append(
            {
                "segmentation": segmentation,
                "area": area,
                "iscrowd": crowd,
                "image_id": image["id"],
                "bbox": box,
                "category_id": rng.choice([*COCO_CATEGORIES]),
                "id": 5000 + 3 * len(annotations),
            }
        )

    for number, image in enumerate(images[1:]):
        width, height = image["width"], image["height"]
        for part in range(rng.randrange(1, 8)):
            parts = [polygon(rng, width, height) for _ in range(2 if part == 2 else 1)]
            add(image, parts, sum(map(area_of, parts)), box_of(parts), 0)
        if number % 4 == 1:
            canvas = np.zeros((height, width), np.uint8)
            for _ in range(3):
                corners = np.array(polygon(rng, width, height)).reshape(-1, 2)
                cv2.fillPoly(canvas, [np.rint(corners).astype(np.int32)], 1)
            add(image, run_lengths(canvas > 0), int(canvas.sum()), [*cv2.boundingRect(canvas)], 1)
    rng.shuffle(annotations)
    return {
        "annotations": annotations,
        "images": images[6:] + images[:6],
        "categories": [
            {"supercategory": "thing", "id": number, "name": name}
            for number, name in COCO_CATEGORIES.items()
        ],
        "info": info("Made-up COCO ground truth"),
        "licenses": LICENSES,
    }


def coco_results(truth: Json) -> list[Json]:
    """Return a detector's results: boxes beside those of the ground truth, with scores."""
    rng = random.Random(2)  # noqa: S311 - not for secrets
    results = []
    for found in truth["annotations"]:
        for _ in range(rng.randrange(0, 4)):
            x, y, width, height = found["bbox"]
            # Detectors of old wrote whole numbers as such.
            box = [round(x * rng.uniform(0.9, 1), 2), round(y), round(width), round(height, 1)]
            entry = {"image_id": found["image_id"], "category_id": found["category_id"]}
            results.append({**entry, "bbox": box, "score": round(rng.uniform(0.05, 1), 3)})
    rng.shuffle(results)
    return results


LVIS_NAMES = (
    ("r", "abacus_frame", "counting_frame"),
    ("c", "butter_churn"),
    ("f", "cup_(drinking)", "mug", "tumbler"),
    ("f", "cup_(trophy)"),
    ("f", "door_knob"),
    ("c", "egg_cosy", "egg_cozy"),
    ("r", "fire_bucket"),
    ("c", "garden_gnome", "lawn_gnome", "garden_dwarf", "gnome"),
    ("r", "hat_stand"),
)


def lvis_categories() -> list[Json]:
    """Return what LVIS knows about a category; its ids have no gaps."""
    return [
        {
            "name": names[0],
            "instance_count": 10 * number,
            "def": f"what is called {names[0].replace('_', ' ')}",
            "synonyms": list(names),
            "image_count": 7 * number,
            "id": number,
            "frequency": frequency,
            "synset": f"{names[0].partition('_(')[0]}.n.01",
        }
        for number, (frequency, *names) in enumerate(LVIS_NAMES, start=1)
    ]


def lvis_ground_truth() -> Json:
    """Return LVIS's ground truth in the layout of version 0.5, whose images name their files."""
    rng = random.Random(3)  # noqa: S311 - not for secrets
    numbers = range(1, len(LVIS_NAMES) + 1)
    images = ground_truth_images(rng, 8, "2017")
    annotations: list[Json] = []
    for image in images:
        known = rng.sample(numbers, rng.randrange(1, 4))
        left = [number for number in numbers if number not in known]
        image["neg_category_ids"] = rng.sample(left, 3)
        image["not_exhaustive_category_ids"] = known[:1] if rng.random() < 0.3 else []
        for category in known:
            for _ in range(rng.randrange(1, 4)):
                outline = polygon(rng, image["width"], image["height"])
                annotations.append(
                    {
                        "segmentation": [outline],
                        "area": round(area_of(outline), 2),
                        "image_id": image["id"],
                        "bbox": box_of([outline]),
                        "id": len(annotations) + 1,
                        "category_id": category,
                    }
                )
    return {
        "categories": lvis_categories(),
        "annotations": annotations,
        "info": info("Made-up LVIS ground truth"),
        "licenses": LICENSES,
        "images": images,
    }


# --- Objects365, V3Det, OpenImages ------------------------------------------------------------


def objects365_record() -> Json:
    """Return one record of Objects365 v2; the excerpt lists one of its two categories."""
    image = {"height": 360, "id": 730211, "license": 3, "width": 541}
    file_name = "images/v1/patch12/objects365_v1_00730211.jpg"
    box = [120.2509765625, 33.18798828125, 75.0029296875, 210.87890625]
    return {
        "images": [{**image, "file_name": file_name, "url": ""}],
        "annotations": [
            {"id": 77, "iscrowd": 0, "isfake": 0, "area": box[2] * box[3], "isreflected": 0}
            | {"bbox": box, "image_id": 730211, "category_id": 31}
        ],
        "categories": [{"name": "Lamp", "id": 5}],
        "licenses": [],
    }


OBJECTS365_BAD = {
    "listed_in_annotations_but_missing": [
        "patch16/objects365_v2_00911000.jpg",
        "patch6/objects365_v1_00322001.jpg",
        "patch6/objects365_v1_00322002.jpg",
    ],
    "size_does_not_match_annotation": [
        "images/v2/patch21/objects365_v2_01220005.jpg",
        "images/v2/patch44/objects365_v2_02030006.jpg",
    ],
}

V3DET_NAMES = (
    "egg timer",
    "jo\u00eblette",
    "t\u00eate-\u00e0-t\u00eate",
    "hat (felt)",
    "sugar bowl",
)
V3DET_FIELDS = {
    "images": ["file_name e.g. images/q0001/1_2_3.jpg", "height", "width", "id"],
    "categories": ["name", "name_zh", "cat_info(list)", "cat_info_gpt", "novel", "id"],
    "annotations": ["image_id", "category_id", "bbox [x,y,w,h]", "iscrowd", "area"],
}

OPENIMAGES_COLUMNS = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,"
    "IsDepiction,IsInside"
)
OPENIMAGES_CLICKS = ",".join(f"XClick{number}{axis}" for axis in "XY" for number in range(1, 5))
OPENIMAGES_BOXES = (
    ("0.100000,0.437500,0.206250,0.918750", "0,1,0,0,0"),
    ("0.031250,0.265625,0.700000,0.953125", "0,0,0,0,0"),
    ("0.512500,0.778125,0.109375,0.590625", "1,0,0,0,0"),
    ("0.600000,0.999375,0.000000,0.318750", "1,1,0,0,0"),
)
ROTATIONS_HEADER = (
    "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,"
    "OriginalSize,OriginalMD5,Thumbnail300KURL,Rotation"
)
ROTATIONS = (
    ("00f1e2d3c4b5a697", "Ada", '"Lamps, ""lit"""', "0.0"),
    ("7788990011223344", "Jo\u00ebl", "...a door", "270.0"),
    ("ffeeddccbbaa9988", "Ada", "Untitled", ""),
)


def openimages_files() -> Iterator[tuple[str, str]]:
    """Yield both layouts of boxes, both of class descriptions, and a list of rotations."""
    rows = [
        f"00a1b2c3d4e5f607,xclick,/m/0lamp,1,{sides},{marks}" for sides, marks in OPENIMAGES_BOXES
    ]
    yield "boxes_13_columns.csv", lines([OPENIMAGES_COLUMNS, *rows])
    header = f"{OPENIMAGES_COLUMNS},{OPENIMAGES_CLICKS}"
    clicked = [f"{row},{','.join(['0.125000'] * 8)}" for row in rows[:3]]
    yield "boxes_21_columns.csv", lines([header, *clicked])
    classes = ["/m/0door,Door", '/m/0lamp2,"Lamp, standing"', "/m/0mug,Mug"]
    yield "classes.csv", lines(classes)
    yield "classes_with_header.csv", lines(["LabelName,DisplayName", *classes])
    of_images = [
        f"{number},train,https://example.org/{number}_o.jpg,https://example.org/{number},"
        f"https://example.org/license,https://example.org/author,{author},{title},"
        f"4405,AAAAAAAAAAAAAAAAAAAAAA==,https://example.org/{number}_z.jpg,{rotation}"
        for number, author, title, rotation in ROTATIONS
    ]
    yield "rotations.csv", lines([ROTATIONS_HEADER, *of_images])


def lines(texts: Sequence[str]) -> str:
    """Return texts as lines."""
    return "".join(f"{text}\n" for text in texts)


# --- Odd images -------------------------------------------------------------------------------


def small_picture(mode: str) -> Image.Image:
    """Draw slopes with circles on them."""
    y, x = np.mgrid[0:72, 0:96]
    waves = 40 * np.sin(np.hypot(x - 30, y - 40) / 3)
    levels = np.stack([90 + x + waves, 60 + 2 * y, 250 - x - y + waves], axis=-1)
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).convert(mode)


def gif(screen_wh: tuple[int, int], frame_wh: tuple[int, int]) -> bytes:
    """Return a GIF that says how large it is and holds next to nothing."""
    colours = bytes([0, 0, 0, 255, 0, 0, 255, 255, 0, 255, 255, 255])
    screen = b"GIF89a" + struct.pack("<HHBBB", *screen_wh, 0xF1, 0, 0) + colours
    return screen + b"," + struct.pack("<HHHHB", 0, 0, *frame_wh, 0) + b"\x02\x01\x00\x00"


def orientation(value: int) -> Image.Exif:
    """Return EXIF data that tell how the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def odd_images() -> Iterator[tuple[str, bytes]]:
    """Yield files that are damaged, or of a rare kind."""
    yield "broken.png", b"\x89PNG\r\n\x1a\n" + bytes(range(70))
    yield "decompression_bomb.gif", gif((32, 32), (65_535, 3_000))
    yield "zero_width.gif", gif((0, 32), (0, 1321))
    yield "zero_width_screen.gif", gif((0, 32), (255, 0))
    levels = np.add.outer(700 * np.arange(72), 130 * np.arange(96)).astype(">u2")
    yield "grey_16_bits.pgm", b"P5\n# made up\n96 72\n65535\n" + levels.tobytes()
    yield "orientation_6.jpg", encoded(small_picture("RGB"), "JPEG", exif=orientation(6))
    # The table says that 40 entries follow, and ends after the first.
    damaged = orientation(1).tobytes().replace(b"\x00\x01\x01\x12", b"\x00\x28\x01\x12", 1)
    yield "bad_exif.jpg", encoded(small_picture("L"), "JPEG", exif=damaged, dpi=(72, 72))
    yield "cmyk.jpg", encoded(small_picture("CMYK"), "JPEG")
    cut = encoded(small_picture("RGB"), "JPEG", progressive=True)
    yield "truncated.jpg", cut[: len(cut) * 3 // 4]
    clear = small_picture("RGB")
    clear.paste((0, 255, 52), (20, 10, 60, 40))
    yield "transparent_colour.png", encoded(clear, "PNG", transparency=(0, 255, 52))


# --- All of them ------------------------------------------------------------------------------


def texts() -> dict[str, bytes]:
    """Return every file of text by its path in this folder, but those of the photos."""
    truth = coco_instances()
    files = {
        "coco/instances.json": json.dumps(truth),
        "coco/results.json": json.dumps(coco_results(truth)),
        "lvis/ground_truth.json": json.dumps(lvis_ground_truth()),
        "lvis/categories.json": json.dumps(lvis_categories()),
        "objects365/record.json": json.dumps(objects365_record(), indent=1),
        "objects365/bad_images.json": json.dumps(OBJECTS365_BAD, indent=1),
        "v3det/fields.json": json.dumps(V3DET_FIELDS, indent=1),
        "v3det/names.txt": lines(V3DET_NAMES),
        **{f"openimages/{name}": text for name, text in openimages_files()},
    }
    return {path: text.encode() for path, text in files.items()}


if __name__ == "__main__":
    odd = {f"odd_images/{name}": content for name, content in odd_images()}
    for place, content in {**texts(), **odd, **photo_files()}.items():
        (FOLDER / place).parent.mkdir(exist_ok=True)
        (FOLDER / place).write_bytes(content)
