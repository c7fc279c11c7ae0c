"""Machines that Hugging Face Jobs rents by the minute: what they cost by its own list, and on which terms a job may use
one. Starts none; that is trainers/local/rentals.

`huggingface_hub` is imported at use, because it takes a quarter of a second.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import TYPE_CHECKING

from trainers.errors import InvalidResponse, Refused, Uncertain
from trainers.money import MICROS

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PROVIDER = "hf"
WHO = "Hugging Face"
TIMEOUT_S = 60.0
_SETTING_UP = threading.Lock()
BILLED_BY = "minute"
HARDWARE, PRICE, MINUTES = "hf_hardware", "hf_usd_per_minute", "hf_minutes"  # of a job's metadata
CURES = {
    401: "It does not accept the token in HF_TOKEN: make another at huggingface.co/settings/tokens.",
    402: "The account has no credit: add some at huggingface.co/settings/billing.",
    403: (
        "The token in HF_TOKEN needs the rights to start Jobs and to write repositories, and the account that pays "
        "([hf] namespace) a plan with Jobs."
    ),
}


@dataclass(frozen=True)
class Rental:
    """A machine as it is listed, and the minutes after which it is ended whatever it does. `gpu` and `memory` as the
    provider writes them, like "T4" and "16 GB"; '' without a GPU."""

    hardware: str
    usd_per_minute: Decimal
    minutes: int
    gpu: str = ""
    memory: str = ""

    @property
    def usd_per_hour(self) -> Decimal:
        return self.usd_per_minute * 60

    def usd(self, seconds: int | Decimal) -> Decimal:
        return self.usd_per_minute * seconds / 60

    @property
    def metadata(self) -> Mapping[str, str]:
        """What a job is told of what was approved."""
        return {HARDWARE: self.hardware, PRICE: f"{self.usd_per_minute:f}", MINUTES: str(self.minutes)}


def read_rental(metadata: Mapping[str, str]) -> Rental | None:
    """Returns what a job may rent, None if it trains on the trainer's own machines. Raises ValueError."""
    if HARDWARE not in metadata:
        return None
    try:
        return Rental(metadata[HARDWARE], Decimal(metadata[PRICE]), int(metadata[MINUTES]))
    except (KeyError, ValueError, InvalidOperation) as error:
        raise ValueError(f"{HARDWARE}, {PRICE} and {MINUTES} belong together") from error


def fetch_rental(hardware: str, minutes: int) -> Rental:
    """Asks for the price. Raises TrainerError."""
    with translate_errors("reading the price list of Jobs"):
        listed = {each.name: each for each in hub_api().list_jobs_hardware()}
    machine = listed.get(hardware)
    if machine is None:
        names = ", ".join(sorted(listed))
        text = f"{WHO} rents no machine named {hardware!r}: set [hf] hardware to one of {names}."
        raise Refused(text, code="unknown_hardware", status=404)
    gpu = machine.accelerator
    if machine.unit_label != BILLED_BY or (gpu and gpu.quantity != "1"):
        text = f"{hardware} at {WHO} is paid by the {machine.unit_label}"
        text += f" and has {gpu.quantity} GPUs" if gpu else ""
        text += ". A job uses one GPU, paid by the minute: name such a machine in [hf] hardware."
        raise Refused(text, code="unsuitable_hardware", status=400)
    usd = Decimal(machine.unit_cost_micro_usd) / MICROS
    return Rental(hardware, usd, minutes, gpu.model if gpu else "", gpu.vram if gpu else "")


def hub_api() -> HfApi:
    """Raises Refused without a token."""
    from huggingface_hub import HfApi

    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        text = f"Renting a machine at {WHO} needs a token: set HF_TOKEN where the bot runs."
        raise Refused(text, code="no_token", status=401)
    with _SETTING_UP:
        _set_up_library()
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)


@cache
def _set_up_library() -> None:
    """Once: a new factory closes the connections of all threads, also of one whose start of a machine is on its way."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory
    from huggingface_hub.utils.tqdm import disable_progress_bars

    def client_with_timeout():  # type: ignore[no-untyped-def]  # the library's own waits for ever
        client = default_client_factory()
        client.timeout = TIMEOUT_S
        return client

    set_client_factory(client_with_timeout)
    disable_progress_bars()


@contextmanager
def translate_errors(action: str) -> Iterator[None]:
    """Turns the library's errors into Refused, a certain no, or Uncertain."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        answer = " ".join(str(error.server_message or error).split())[:200]
        if status in (408, 409, 429) or status >= 500:
            raise Uncertain(f"{action} at {WHO}: it answered {status}, {answer}", status=status) from error
        text = f"{WHO} refused {action} ({status}): {answer.rstrip('.')}. {CURES.get(status, '')}".rstrip()
        raise Refused(text, code=f"hf_{status}", status=status) from error
    except (HTTPError, OSError, RuntimeError) as error:  # the last two: a file that did not get through
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Uncertain(f"{action} at {WHO}: {reason}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidResponse(f"{action} at {WHO}: its answer can't be read ({error!r})") from error
