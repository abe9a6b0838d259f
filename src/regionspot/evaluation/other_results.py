"""Results of other systems, checked to be of the data that they are scored on."""

import logging
from pathlib import Path

import numpy as np

from regionspot.core.errors import AnnotationError
from regionspot.evaluation.data import EvaluationData
from regionspot.scoring import (
    IouType,
    Predictions,
    ResultsFile,
    class_differences,
    predicted_masks,
    read_results_file,
)

_logger = logging.getLogger(__name__)

_NUM_EXAMPLES = 3


def read_results(path: Path, data: EvaluationData, iou_type: IouType) -> Predictions:
    """Read the results of another system, and check that they are of the same data.

    Args:
        path: The results file.
        data: The data that they are scored on.
        iou_type: Whether boxes or masks are compared.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: It is no results file, names images or categories that the data lacks or
            calls otherwise, or has masks of another size than the images.
    """
    file = read_results_file(path, iou_type=iou_type)
    _check_names(path, file, data)
    predictions = Predictions.of_results(file)
    repeated = predictions.num_repeated()
    if repeated:
        _logger.warning(
            "%s: %d of %d rows repeat an earlier one and count as false; was the file put together"
            " from parts that overlap?",
            path,
            repeated,
            len(predictions),
        )
    is_scored = np.isin(predictions.image_ids, data.truth.image_ids)
    if data.summary.is_subset and not is_scored.all():
        _logger.warning(
            "%s: %d of %d rows are of images that are not scored, and left out",
            path,
            (~is_scored).sum(),
            len(predictions),
        )
        predictions = predictions.select(is_scored)
    for what, found, known in (
        ("images", predictions.image_ids, data.truth.image_ids),
        ("categories", predictions.category_ids, list(data.class_names)),
    ):
        strange = np.setdiff1d(found, np.array(known, np.int64))
        if len(strange):
            raise AnnotationError(
                f"{path} names {len(strange):,} {what} that {data.truth.name} does not list, e.g."
                f" id {strange[0]}. Results must have the ids of the data they are scored on."
            )
    if iou_type == "segm":
        predicted_masks(predictions, data.truth.sizes_hw, name=str(path))
    return predictions


def _check_names(path: Path, file: ResultsFile, data: EvaluationData) -> None:
    different = class_differences(
        file.categories or {}, data.class_names, where="the results", truth="the ground truth"
    )
    if different:
        raise AnnotationError(
            f"{path} has {len(different):,} categories that {data.truth.name} does not list by the"
            f" same id and name ({'; '.join(different[:_NUM_EXAMPLES])}). Give it the ids and names"
            ' of the data it is scored on, or leave "categories" out if only names are spelled'
            " differently."
        )
