"""Genuine annotation files in, records out; everything that is dropped or changed is counted."""

from regionspot.annotations.assembly import Crowds
from regionspot.annotations.formats import READERS, AnnotationFormat, read_annotations
from regionspot.annotations.record import AnnotatedImages, ImageRecord
from regionspot.annotations.report import AnnotationReport, Dropped, Reason

__all__ = [
    "READERS",
    "AnnotatedImages",
    "AnnotationFormat",
    "AnnotationReport",
    "Crowds",
    "Dropped",
    "ImageRecord",
    "Reason",
    "read_annotations",
]
