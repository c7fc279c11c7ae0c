"""Why an export does not happen: what the person reads, with its cure."""

from __future__ import annotations


class ExportRefused(Exception):
    """An expected no. The message can be shown to a user."""


class AnswersDiffer(ExportRefused):
    """The export was written, loaded again and answered otherwise than our server; nothing of it was kept."""
