"""Says what a JSON file is, so that one given under a wrong format can be named."""

from collections.abc import Mapping

WANTED_LISTS = ("images", "annotations", "categories")


def recognize_format(value: object) -> str | None:
    """Return the format (``lvis``, ``coco``) that a file's content is in, or None."""
    if not isinstance(value, dict) or not all(_is_list(value, name) for name in WANTED_LISTS):
        return None
    if _foreign_annotations(value) is not None:
        return None
    image, category = _first(value, "images"), _first(value, "categories")
    # LVIS alone says which categories were looked for in an image and how frequent each one is.
    is_lvis = "neg_category_ids" in image or "frequency" in category
    return "lvis" if is_lvis else "coco"


def describe(value: object) -> str:
    """Say in a few words what a file's content is, for messages; starts with an article."""
    if isinstance(value, list):
        return _describe_list(value)
    if not isinstance(value, dict):
        return f"a JSON {type(value).__name__}"
    recognized = recognize_format(value)
    if recognized is not None:
        return {"lvis": "an LVIS ground-truth file", "coco": "a COCO ground-truth file"}[recognized]
    return _foreign_annotations(value) or f"a JSON object with {_keys(value)}"


def _describe_list(value: list[object]) -> str:
    first = value[0] if value else None
    if not isinstance(first, dict):
        return f"a JSON list of {len(value):,} entries"
    if "score" in first and "image_id" in first:
        return f"a list of {len(value):,} detections with scores (the COCO results format)"
    if "frequency" in first and "synset" in first:
        return f"a list of {len(value):,} LVIS categories without images"
    return f"a JSON list of {len(value):,} objects with {_keys(first)}"


def _foreign_annotations(value: Mapping[str, object]) -> str | None:
    first = _first(value, "annotations")
    if "segments_info" in first:
        return "a COCO panoptic file (segments instead of boxes)"
    if "caption" in first:
        return "a COCO captions file (sentences instead of boxes)"
    return None


def _is_list(value: Mapping[str, object], name: str) -> bool:
    return isinstance(value.get(name), list)


def _first(value: Mapping[str, object], name: str) -> Mapping[str, object]:
    entries = value.get(name)
    if isinstance(entries, list) and entries and isinstance(entries[0], dict):
        return entries[0]
    return {}


def _keys(value: Mapping[str, object]) -> str:
    shown = ", ".join(list(value)[:6])
    return f"the keys {shown}" if shown else "no keys"
