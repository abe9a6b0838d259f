"""Reads official annotation and proposal files into records; counts what is dropped or changed."""

from regionspot.annotations.box_checks import (
    ExaminedBoxes,
    Implausible,
    implausible_error,
    overshooting,
)
from regionspot.annotations.classes import with_merged_classes
from regionspot.annotations.coco import read_coco_json
from regionspot.annotations.coco_truth import CocoMasks
from regionspot.annotations.columns import image_file_name, image_key
from regionspot.annotations.csv_table import CsvBlock, CsvColumn, CsvTable
from regionspot.annotations.detectron2 import read_detections
from regionspot.annotations.find_annotations import (
    FoundAnnotations,
    find_annotations,
    find_images_dir,
    yolo_images_dir,
)
from regionspot.annotations.formats import (
    FORMATS,
    AnnotationFormat,
    check_options,
    identities_of_file,
    read_annotations,
)
from regionspot.annotations.lvis import FREQUENCIES, Frequency
from regionspot.annotations.lvis_truth import LvisCategory, LvisGroundTruth
from regionspot.annotations.options import KeepOrDrop, ReadOptions
from regionspot.annotations.proposals import ProposalFormat, ProposalTable, read_proposals
from regionspot.annotations.proposing import with_proposals, without_regions
from regionspot.annotations.record import AnnotatedImages, ImageRecord, RecordTable, ResolvedRecord
from regionspot.annotations.region_prompts import (
    Prompt,
    decode_mask,
    decode_points,
    encode_mask,
    segmentation_text,
)
from regionspot.annotations.report import AnnotationReport, Dropped, Reason
from regionspot.annotations.v3det import read_category_tree
from regionspot.annotations.yolo_layout import images_below

__all__ = [
    "FORMATS",
    "FREQUENCIES",
    "AnnotatedImages",
    "AnnotationFormat",
    "AnnotationReport",
    "CocoMasks",
    "CsvBlock",
    "CsvColumn",
    "CsvTable",
    "Dropped",
    "ExaminedBoxes",
    "FoundAnnotations",
    "Frequency",
    "ImageRecord",
    "Implausible",
    "KeepOrDrop",
    "LvisCategory",
    "LvisGroundTruth",
    "Prompt",
    "ProposalFormat",
    "ProposalTable",
    "ReadOptions",
    "Reason",
    "RecordTable",
    "ResolvedRecord",
    "check_options",
    "decode_mask",
    "decode_points",
    "encode_mask",
    "find_annotations",
    "find_images_dir",
    "identities_of_file",
    "image_file_name",
    "image_key",
    "images_below",
    "implausible_error",
    "overshooting",
    "read_annotations",
    "read_category_tree",
    "read_coco_json",
    "read_detections",
    "read_proposals",
    "segmentation_text",
    "with_merged_classes",
    "with_proposals",
    "without_regions",
    "yolo_images_dir",
]
