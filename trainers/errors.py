"""What can go wrong between us and a trainer. Every message can be shown to a user.

TrainerError
├── Refused          the trainer said no: nothing was created, nothing is owed
├── Uncertain        no clear answer (timeout, reset, 408/409/429/5xx): look before trying again
├── InvalidResponse  an answer came that is not in the API's shape
└── FileChanged      one of our files is not the one that was approved: it was not used
"""

from __future__ import annotations


class TrainerError(Exception):
    """A trainer did not do what it was asked."""


class Refused(TrainerError):
    """The trainer refused. `code`: the API's, e.g. 'training_not_available'; `status`: the HTTP status; `param`: the
    parameter that it is about, where the trainer names it."""

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
        """Whether this organisation may not train here, whatever it sends."""
        return self.code == "training_not_available"


class Uncertain(TrainerError):
    """It may or may not have happened. `retry_after` in seconds where the trainer named it; `status`: the HTTP
    status, where an answer came."""

    def __init__(self, message: str, *, retry_after: float | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.status = status

    @property
    def is_rate_limit(self) -> bool:
        return self.status == 429


class InvalidResponse(TrainerError):
    """The answer cannot be read: a proxy's page, a missing field.

    After a POST it leaves as much open as Uncertain does: the job may be there, so look before trying again.
    """


class FileChanged(TrainerError):
    """A file that is kept under its sha256 has other bytes by now. `name`: the file's, for people to find it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"{self.name} in the data folder is not the file that was approved: its bytes changed since. Put it back "
            "from a backup, or upload the data again and start a new run."
        )
