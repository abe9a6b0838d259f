"""The trained part in plain torch: fusion head, classifier, loss, and their files."""

from regionspot.model.checkpoint_file import (
    CHECKPOINT_CARD_KEY,
    CHECKPOINT_SUFFIX,
    read_checkpoint,
    whole_checkpoints,
    write_checkpoint,
)
from regionspot.model.classifier import RegionClassifier, classification_logits, normalized
from regionspot.model.fusion_head import FusionHead
from regionspot.model.head_files import RUN_FOLDER, SHARED_HEAD_FILES, WEIGHTS_SUFFIX
from regionspot.model.head_spec import HeadOptions, HeadSpec
from regionspot.model.loss import Normalization, sigmoid_focal_loss
from regionspot.model.position_code import PositionCode
from regionspot.model.region_loss import region_focal_loss
from regionspot.model.released import (
    RELEASED_SUFFIX,
    load_released_head,
    save_released_head,
)
from regionspot.model.trained_head import (
    CARD_VERSION,
    HeadCard,
    JsonValue,
    TrainedHead,
    load_trained_head,
    save_trained_head,
)

__all__ = [
    "CARD_VERSION",
    "CHECKPOINT_CARD_KEY",
    "CHECKPOINT_SUFFIX",
    "RELEASED_SUFFIX",
    "RUN_FOLDER",
    "SHARED_HEAD_FILES",
    "WEIGHTS_SUFFIX",
    "FusionHead",
    "HeadCard",
    "HeadOptions",
    "HeadSpec",
    "JsonValue",
    "Normalization",
    "PositionCode",
    "RegionClassifier",
    "TrainedHead",
    "classification_logits",
    "load_released_head",
    "load_trained_head",
    "normalized",
    "read_checkpoint",
    "region_focal_loss",
    "save_released_head",
    "save_trained_head",
    "sigmoid_focal_loss",
    "whole_checkpoints",
    "write_checkpoint",
]
