"""What `--executor ray` needs, checked before the trainer starts: the head, and a way for the nodes to reach
us."""

from __future__ import annotations

import ipaddress
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from trainers.local.ray.backend import RayOptions
from trainers.local.ray.head import RayAway, RayError, RayHead
from trainers.local.ray.transfer import has_open_tickets

PASSED = (
    "FINETUNE_DTYPE",
    "HF_ENDPOINT",
    "MLFLOW_TRACKING_URI",
    "OMP_NUM_THREADS",
)  # no keys: Ray shows them
log = logging.getLogger(__name__)


class Unusable(Exception):
    """The message is a sentence."""


@dataclass(frozen=True)
class Wishes:
    """As given on the command line. `relay` None: worked out from where we listen."""

    address: str
    relay: str | None
    is_shared: bool
    python: str
    gpus_per_job: int
    nodes_per_job: int = 1


def ray_options(wishes: Wishes, host: str, port: int, jobs: Path) -> RayOptions:
    """Raises Unusable. A head that is away is waited for where jobs of ours may be running there."""
    relay = None if wishes.is_shared else _relay(wishes, host, port)
    head = RayHead(wishes.address)
    try:
        log.info("Ray %s at %s", head.check(), wishes.address)
    except RayAway as error:
        if not has_open_tickets(jobs):
            text = "Start it with `ray start --head`, or name its dashboard with --ray-address."
            raise Unusable(f"the Ray cluster can't be used: {error}. {text}") from error
        log.warning("%s. Its jobs are waited for.", error)
    except RayError as error:
        raise Unusable(f"the Ray cluster can't be used: {error}") from error
    finally:
        head.close()
    return RayOptions(
        address=wishes.address,
        relay=relay,
        python=wishes.python,
        gpus=wishes.gpus_per_job,
        nodes=wishes.nodes_per_job,
        passed={name: os.environ[name] for name in PASSED if name in os.environ},
    )


def _relay(wishes: Wishes, host: str, port: int) -> str:
    if wishes.relay is not None:
        address = wishes.relay.rstrip("/")
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
            raise Unusable(
                f"--relay-url {wishes.relay} is no address such as http://trainer.internal:{port}."
            )
        return address
    is_ray_here = is_loopback(urlsplit(wishes.address).hostname or "")
    if host in ("0.0.0.0", "::") or (is_loopback(host) and not is_ray_here):  # noqa: S104 - asks, binds nothing
        raise Unusable(
            f"the nodes of {wishes.address} could not bring their results back to {host}. Listen where they reach you "
            "(--host) and name that address with --relay-url, or use --ray-shared where your disks are common."
        )
    return f"http://{host if ':' not in host else f'[{host}]'}:{port}"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
