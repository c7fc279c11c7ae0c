"""What the check of a file found that weighs in the verdict: copies, contradictions, labels that are wrong."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.dataset import Report
from trainers.dataset.rules.checks import CONTRADICTION, DUPLICATE


@dataclass(frozen=True)
class RowFaults:
    """In rows: `copies` ask and answer what an earlier row does, `contradicting` ones ask the same and answer
    otherwise. About `doubted` more have a wrong label, by the estimate of the check."""

    copies: int = 0
    contradicting: int = 0
    doubted: int = 0

    @property
    def repeated(self) -> int:
        return self.copies + self.contradicting

    @property
    def wrong(self) -> int:
        return self.doubted + self.contradicting


NO_FAULTS = RowFaults()


def faults_of(report: Report) -> RowFaults:
    """Where the check could not tell how many labels are wrong, none is doubted. A label that contradicts another is
    one of those that are wrong."""
    contradicting, errors = _count(report, CONTRADICTION.code), report.label_errors
    wrong = round(errors.wrong * report.rows) if errors and errors.is_told else 0
    return RowFaults(_count(report, DUPLICATE.code), contradicting, max(wrong - contradicting, 0))


def _count(report: Report, code: str) -> int:
    return sum(one.count for one in report.findings if one.code == code)
