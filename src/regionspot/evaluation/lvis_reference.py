"""The reference that `lvis_ap` is held to: `lvis.LVISEval` itself, about 80 times slower.

lvis 0.5.3 uses ``np.float``, which numpy removed in 1.24, at two places of ``lvis/eval.py``. This
is the only place that mends it: while the reference runs, the name ``np`` inside that one module is
a proxy that also has ``float``; numpy itself is never touched.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np

from regionspot.core.errors import MissingExtraError
from regionspot.evaluation.predictions import Predictions


class _NumpyWithFloat:
    """numpy, plus the alias ``np.float`` that lvis needs."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def reference_lvis_figures(annotations: Path, predictions: Predictions) -> dict[str, float]:
    """Score boxes with `lvis.LVISEval`; the figures are its own: fractions, -1 where undefined.

    Args:
        annotations: An LVIS annotation file.
        predictions: What to score. There must be at least one: lvis fails on an empty list.

    Returns:
        ``AP``, ``AP50``, ..., ``AR@300``, ... as lvis names them.

    Raises:
        MissingExtraError: lvis is not installed.
    """
    evaluation = run_reference(annotations, predictions)
    return {name: float(value) for name, value in evaluation.get_results().items()}


def run_reference(annotations: Path, predictions: Predictions) -> Any:
    """Return the `lvis.LVISEval` that ran; its ``eval`` holds all precisions and recalls."""
    lvis_eval = _import_lvis_eval()
    with TemporaryDirectory() as folder, _numpy_float_supplied(lvis_eval):
        # By file: lvis logs a deprecated warning for a list, and the file is what users exchange.
        results = Path(folder) / "predictions.json"
        predictions.write_lvis_json(results)
        evaluation = lvis_eval.LVISEval(str(annotations), str(results), "bbox")
        evaluation.run()
    return evaluation


@contextmanager
def _numpy_float_supplied(module: ModuleType) -> Iterator[None]:
    original = vars(module)["np"]
    vars(module)["np"] = _NumpyWithFloat()
    try:
        yield
    finally:
        vars(module)["np"] = original


def _import_lvis_eval() -> ModuleType:
    try:
        import lvis.eval
    except ImportError as error:
        raise MissingExtraError(
            'the LVIS reference needs lvis: type `pip install "regionspot[eval]"`.'
        ) from error
    return lvis.eval
