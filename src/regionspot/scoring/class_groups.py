"""Groups of classes, such as those that no head was trained on, and the AP of each."""

from dataclasses import dataclass

from regionspot.scoring.ap_scores import ApScores


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassGroup:
    """Classes whose mean AP is a figure of its own."""

    name: str
    """The name in tables and in ``metrics.json``, e.g. "unseen"."""
    classes: tuple[str, ...]
    """The class names, at least one."""

    @property
    def figure(self) -> str:
        """The name of its AP beside other figures."""
        return f"AP of {self.name}"

    def num_scored(self, scores: ApScores) -> int:
        """Count the classes of the group that have ground truth."""
        return len(self._scored(scores))

    def average_precision(self, scores: ApScores) -> float | None:
        """Return the mean AP in percent of the classes that have ground truth; None without any."""
        scored = self._scored(scores)
        return sum(scored) / len(scored) if scored else None

    def _scored(self, scores: ApScores) -> list[float]:
        classes = set(self.classes)
        rows = scores.per_category
        return [row.AP for row in rows if row.name in classes and row.AP is not None]
