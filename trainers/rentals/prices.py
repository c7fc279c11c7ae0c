"""Machines that Hugging Face Jobs rents by the minute: their list prices, and the terms on which a job may use one.
trainers/local/rentals starts them.

`huggingface_hub` is imported inside functions, because importing it takes a quarter of a second.
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
# Keys of a job's metadata.
HARDWARE = "hf_hardware"
PRICE = "hf_usd_per_minute"
MINUTES = "hf_minutes"
CURES = {
    401: "The token in HF_TOKEN is not valid: create another at huggingface.co/settings/tokens.",
    402: "The account has no credit: add some at huggingface.co/settings/billing.",
    403: (
        "The token in HF_TOKEN needs the rights to start Jobs and to write repositories, and the paying account "
        "([hf] namespace) needs a plan with Jobs."
    ),
}


@dataclass(frozen=True)
class Rental:
    """A machine at its list price, to be ended after `minutes` at the latest. `gpu` and `memory` are as the provider
    writes them, like "T4" and "16 GB", and '' without a GPU."""

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
        """Returns the approved terms as a job's metadata."""
        return {HARDWARE: self.hardware, PRICE: f"{self.usd_per_minute:f}", MINUTES: str(self.minutes)}


def read_rental(metadata: Mapping[str, str]) -> Rental | None:
    """Reads the approved terms from a job's metadata. Returns None for a job that trains on the trainer's own machines.
    Raises ValueError for incomplete or impossible terms."""
    if HARDWARE not in metadata:
        return None
    if PRICE not in metadata or MINUTES not in metadata:
        raise ValueError(f"{HARDWARE}, {PRICE} and {MINUTES} must be given together")
    try:
        rental = Rental(metadata[HARDWARE], Decimal(metadata[PRICE]), int(metadata[MINUTES]))
        is_possible = rental.usd_per_minute.is_finite() and rental.usd_per_minute > 0 and rental.minutes > 0
    except (ValueError, InvalidOperation):
        is_possible = False
    if not is_possible:
        raise ValueError(f"{PRICE} and {MINUTES} must be numbers above 0")
    return rental


def fetch_rental(hardware: str, minutes: int) -> Rental:
    """Returns the machine at today's list price. Raises TrainerError."""
    with translate_errors("reading the price list of Jobs"):
        listed = {each.name: each for each in hub_api().list_jobs_hardware()}
    machine = listed.get(hardware)
    if machine is None:
        names = ", ".join(sorted(listed))
        text = f"{WHO} has no machine named {hardware!r} to rent: set [hf] hardware to one of {names}."
        raise Refused(text, code="unknown_hardware", status=404)
    gpu = machine.accelerator
    if machine.unit_label != BILLED_BY or (gpu and gpu.quantity != "1"):
        text = f"{hardware} at {WHO} is billed by the {machine.unit_label}"
        if gpu:
            text += f" and has {gpu.quantity} GPUs"
        text += ". A job uses one GPU, billed by the minute: set [hf] hardware to such a machine."
        raise Refused(text, code="unsuitable_hardware", status=400)
    usd = Decimal(machine.unit_cost_micro_usd) / MICROS
    if not gpu:
        return Rental(hardware, usd, minutes)
    return Rental(hardware, usd, minutes, gpu.model, gpu.vram)


def hub_api() -> HfApi:
    """Returns a client of the Hub. Raises Refused if there is no token."""
    from huggingface_hub import HfApi

    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        text = f"Renting a machine at {WHO} needs a token: set HF_TOKEN in the bot's environment."
        raise Refused(text, code="no_token", status=401)
    # A cache alone would let two threads begin at once.
    with _SETTING_UP:
        _set_up_library()
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)


@cache
def _set_up_library() -> None:
    """Sets the client factory only once: a new factory closes the connections of all threads, even if one of them is
    just starting a machine."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory
    from huggingface_hub.utils.tqdm import disable_progress_bars

    def client_with_timeout():  # type: ignore[no-untyped-def]  # the library's own client never times out
        client = default_client_factory()
        client.timeout = TIMEOUT_S
        return client

    set_client_factory(client_with_timeout)
    disable_progress_bars()


@contextmanager
def translate_errors(action: str) -> Iterator[None]:
    """Turns the library's errors into Refused (certainly not done), Uncertain or Nonsense."""
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
    except (HTTPError, OSError, RuntimeError) as error:  # uploads fail with an OSError or a RuntimeError
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Uncertain(f"{action} at {WHO}: {reason}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidResponse(f"{action} at {WHO}: its answer can't be read ({error!r})") from error
