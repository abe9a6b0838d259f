"""Named regions in the formats of other tools; each is a method of `Regions`."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import MissingExtraError
from regionspot.core.geometry import box_area, xyxy_to_xywh
from regionspot.core.rle_masks import rle_counts
from regionspot.core.text import needs_extra
from regionspot.inference.clip_crops import pixel_box

if TYPE_CHECKING:
    import fiftyone
    import pandas as pd
    import supervision

    from regionspot.inference.regions import Regions


def to_dict(regions: "Regions") -> dict[str, Any]:
    """Return plain numbers and texts, ready for `json.dumps`."""
    height, width = regions.image.shape[:2]
    columns = zip(
        regions.labels,
        regions.scores.tolist(),
        regions.confidences.tolist(),
        regions.boxes_xyxy.tolist(),
        regions.top_labels,
        regions.top_scores.tolist(),
        strict=True,
    )
    return {
        "height": height,
        "width": width,
        "regions": [
            {
                "label": label,
                "score": score,
                "confidence": confidence,
                "box_xyxy": box,
                "top_labels": list(top_labels),
                "top_scores": top_scores,
            }
            for label, score, confidence, box, top_labels, top_scores in columns
        ],
    }


def to_coco(regions: "Regions", *, image_id: int, file_name: str) -> dict[str, Any]:
    """Return a COCO data set of one image, with masks as compressed RLE."""
    height, width = regions.image.shape[:2]
    boxes_xywh = xyxy_to_xywh(regions.boxes_xyxy).tolist()
    areas = box_area(regions.boxes_xyxy).tolist()
    annotations = []
    for row, (box, area) in enumerate(zip(boxes_xywh, areas, strict=True)):
        annotation: dict[str, Any] = {
            "id": row + 1,
            "image_id": image_id,
            "category_id": int(regions.class_ids[row]) + 1,
            "bbox": box,
            "area": area,
            "iscrowd": 0,
            "score": float(regions.scores[row]),
        }
        mask = regions.mask(row)
        if mask is not None:
            counts = rle_counts(mask).decode("ascii")
            annotation["segmentation"] = {"size": [height, width], "counts": counts}
            annotation["area"] = float(mask.sum())
        annotations.append(annotation)
    return {
        "images": [{"id": image_id, "file_name": file_name, "height": height, "width": width}],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name} for number, name in enumerate(regions.vocabulary, start=1)
        ],
    }


def to_dataframe(regions: "Regions") -> "pd.DataFrame":
    """Return a table with a row per region."""
    with needs_extra("tables"):
        import pandas as pd
    columns = {
        "label": list(regions.labels),
        "score": regions.scores,
        "confidence": regions.confidences,
    }
    boxes = dict(zip(("x1", "y1", "x2", "y2"), regions.boxes_xyxy.T, strict=True))
    return pd.DataFrame({**columns, **boxes})


def to_supervision(regions: "Regions") -> "supervision.Detections":
    """Return ``supervision.Detections`` with names under ``data["class_name"]``."""
    with needs_extra("tables"):
        import supervision as sv
    return sv.Detections(
        xyxy=regions.boxes_xyxy.copy(),
        mask=regions.masks,
        confidence=regions.scores.copy(),
        class_id=regions.class_ids.copy(),
        data={"class_name": np.array(regions.labels, dtype=np.str_)},
    )


def to_fiftyone(regions: "Regions") -> "fiftyone.Detections":
    """Return ``fiftyone.Detections``: relative (x, y, width, height), and masks cut to the box."""
    try:
        import fiftyone
    except ImportError as error:
        raise MissingExtraError(
            "to_fiftyone() needs FiftyOne, which is not installed: pip install fiftyone."
        ) from error
    size_hw = (regions.image.shape[0], regions.image.shape[1])
    labels = regions.labels
    detections = []
    for row, box in enumerate(_relative_xywh(regions).tolist()):
        mask = regions.mask(row)
        if mask is not None:
            x1, y1, x2, y2 = pixel_box(regions.boxes_xyxy[row], size_hw)
            mask = mask[y1:y2, x1:x2]
        detections.append(
            fiftyone.Detection(
                label=labels[row],
                bounding_box=box,
                confidence=float(regions.scores[row]),
                mask=mask,
            )
        )
    return fiftyone.Detections(detections=detections)


def _relative_xywh(regions: "Regions") -> NDArray[np.float64]:
    """Return boxes (x, y, width, height), (R, 4), relative to the image's width and height.

    In float64: rounded to float32, a whole pixel may become a little less, and is then cut off.
    """
    height, width = regions.image.shape[:2]
    corners = regions.boxes_xyxy.astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    return np.concatenate([corners[:, :2], sides], axis=1) / (width, height, width, height)


def to_label_studio(
    regions: "Regions", image_url: str, *, from_name: str, to_name: str
) -> dict[str, Any]:
    """Return a Label Studio task with the boxes as predictions, in percent of the image's size."""
    height, width = regions.image.shape[:2]
    percent = 100 * _relative_xywh(regions)
    labels = regions.labels
    results = [
        {
            "id": f"region{row}",
            "type": "rectanglelabels",
            "from_name": from_name,
            "to_name": to_name,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": float(regions.scores[row]),
            "value": {
                **dict(zip(("x", "y", "width", "height"), box, strict=True)),
                "rotation": 0,
                "rectanglelabels": [labels[row]],
            },
        }
        for row, box in enumerate(percent.tolist())
    ]
    score = float(regions.scores.mean()) if len(regions) else 0.0
    prediction = {"model_version": "regionspot", "score": score, "result": results}
    return {"data": {to_name: image_url}, "predictions": [prediction]}
