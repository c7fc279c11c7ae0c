"""Errors of calls to a trainer. Every message can be shown to a user.

TrainerError
├── Refused          the trainer said no: nothing was created, nothing is owed
├── Uncertain        no clear answer (timeout, reset, 408/409/429/5xx): check before trying again
├── InvalidResponse  the answer does not have the API's shape
└── FileChanged      a local file is not the one that was approved; it was not used
"""

from __future__ import annotations


class TrainerError(Exception):
    """A trainer did not do what it was asked."""


class Refused(TrainerError):
    """The trainer refused the request. `code` is the API's error code, such as 'training_not_available', `status` the
    HTTP status, and `param` the refused parameter if the trainer names it."""

    def __init__(self, message: str, *, code: str | None, status: int, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.param = param

    @property
    def is_missing(self) -> bool:
        return self.status == 404

    @property
    def is_training_unavailable(self) -> bool:
        """True if this organisation is not allowed to train here at all."""
        return self.code == "training_not_available"


class Uncertain(TrainerError):
    """The request may or may not have had an effect. `retry_after` is in seconds, if the trainer gave it; `status` is
    the HTTP status, if there was an answer. `was_sent` is false if there was no connection at all."""

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        status: int | None = None,
        was_sent: bool = True,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.status = status
        self.was_sent = was_sent

    @property
    def is_rate_limit(self) -> bool:
        return self.status == 429

    @property
    def may_be_billed(self) -> bool:
        """True if the trainer may have done the work all the same. It answers with an error for what it didn't do,
        except where somebody between us and it stopped waiting."""
        return self.was_sent and self.status in (None, 408, 504)


class InvalidResponse(TrainerError):
    """The answer can't be read: it is a proxy's page, for example, or a field is missing.

    After a POST this is as unclear as Uncertain: the job may exist, so check before trying again.
    """


class FileChanged(TrainerError):
    """A file that is stored under its sha256 no longer has that content. `name` is its file name, for people."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"{self.name} in the data folder has changed since it was approved. Restore it from a backup, or upload "
            "the data again and start a new run."
        )
