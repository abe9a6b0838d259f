"""Genuine annotation and proposal files in, records out; what is dropped or changed is counted."""

from regionspot.annotations.box_checks import (
    ExaminedBoxes,
    Implausible,
    implausible_error,
    overshooting,
)
from regionspot.annotations.coco import named_file, read_coco_json
from regionspot.annotations.csv_boxes import csv_image_key
from regionspot.annotations.csv_table import CsvBlock, CsvColumn
from regionspot.annotations.detectron2 import read_detections
from regionspot.annotations.formats import (
    FORMATS,
    AnnotationFormat,
    check_options,
    identities_of_file,
    read_annotations,
)
from regionspot.annotations.lvis_entries import FREQUENCIES, Frequency
from regionspot.annotations.lvis_truth import LvisCategory, LvisGroundTruth
from regionspot.annotations.merging import with_merged_classes
from regionspot.annotations.options import KeepOrDrop, ReadOptions
from regionspot.annotations.proposals import ProposalFormat, ProposalTable, read_proposals
from regionspot.annotations.proposing import with_proposals, without_regions
from regionspot.annotations.record import BoxUnit, ImageRecord
from regionspot.annotations.region_prompts import Prompt, decode_mask
from regionspot.annotations.report import AnnotationReport, Dropped, Reason
from regionspot.annotations.table import AnnotatedImages, RecordTable
from regionspot.annotations.v3det_tree import read_category_tree

__all__ = [
    "FORMATS",
    "FREQUENCIES",
    "AnnotatedImages",
    "AnnotationFormat",
    "AnnotationReport",
    "BoxUnit",
    "CsvBlock",
    "CsvColumn",
    "Dropped",
    "ExaminedBoxes",
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
    "check_options",
    "csv_image_key",
    "decode_mask",
    "identities_of_file",
    "implausible_error",
    "named_file",
    "overshooting",
    "read_annotations",
    "read_category_tree",
    "read_coco_json",
    "read_detections",
    "read_proposals",
    "with_merged_classes",
    "with_proposals",
    "without_regions",
]
