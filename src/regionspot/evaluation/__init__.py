"""The evaluation engine: runs methods, scores them, draws pictures, writes the report."""

from regionspot.evaluation.comparison import write_comparison
from regionspot.evaluation.config import DEFAULT_HEAD_NAME, EvalConfig
from regionspot.evaluation.data import EvaluationData, open_evaluation_data
from regionspot.evaluation.report import REPORT_NAME
from regionspot.evaluation.run import run_evaluation

__all__ = [
    "DEFAULT_HEAD_NAME",
    "REPORT_NAME",
    "EvalConfig",
    "EvaluationData",
    "open_evaluation_data",
    "run_evaluation",
    "write_comparison",
]
