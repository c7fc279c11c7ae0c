"""Parses OpenAI's `integrations`: which services, beside TensorBoard's files, get a job's curves. Sends nothing.

Where a service lies and who we are there is the trainer's environment alone (WANDB_API_KEY, WANDB_MODE,
MLFLOW_TRACKING_URI): a client names a project, never an address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from trainers.local.problems import Problem, invalid
from trainers.local.spool import Integration

PROJECTS: Mapping[str, Literal["project", "experiment"]] = {"wandb": "project", "mlflow": "experiment"}
FIELDS = {
    "wandb": ("project", "name", "entity", "tags"),
    "mlflow": ("experiment", "name", "tags"),
}
NAME = re.compile(r"[\w .:/-]{1,128}")


def parse_integrations(value: object) -> tuple[Integration, ...]:
    """Raises Problem (400)."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise invalid("'integrations' must be a list of objects.", "integrations", "invalid_type")
    parsed = tuple(_integration(each, f"integrations[{number}]") for number, each in enumerate(value))
    if len({each.kind for each in parsed}) < len(parsed):
        raise invalid("'integrations' names a service twice.", "integrations")
    return parsed


def check_installed(integrations: tuple[Integration, ...]) -> None:
    """Raises Problem (400) where a service's package or key is missing on this trainer."""
    for each in integrations:
        if find_spec(each.kind) is None:
            text = (
                f"The integration '{each.kind}' needs the package {each.kind}, which this trainer's environment lacks. "
                f"Install it there (pip install {each.kind}), or leave the integration out."
            )
            raise Problem(400, text, "integration_not_installed", "integrations")
        if each.kind == "wandb" and not _has_wandb_key():
            text = (
                "The integration 'wandb' needs a key where the trainer runs: set WANDB_API_KEY there, "
                "or WANDB_MODE=offline to keep its files in the job's folder."
            )
            raise Problem(400, text, "integration_not_set_up", "integrations")
        if each.kind == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
            text = (
                "The integration 'mlflow' needs an address where the trainer runs: "
                "set MLFLOW_TRACKING_URI there to that of your MLflow server."
            )
            raise Problem(400, text, "integration_not_set_up", "integrations")


def integration_body(integration: Integration) -> dict[str, Any]:
    """OpenAI's shape; for MLflow, which OpenAI does not know, the same with its own word."""
    inner: dict[str, Any] = {PROJECTS[integration.kind]: integration.project}
    inner |= {"name": integration.name, "tags": list(integration.tags)}
    if integration.kind == "wandb":
        inner["entity"] = integration.entity
    return {"type": integration.kind, integration.kind: inner}


def _integration(raw: Mapping[str, Any], path: str) -> Integration:
    kind = raw.get("type")
    if kind not in ("wandb", "mlflow"):
        text = f"'{path}.type' is {kind!r}; this trainer knows wandb and mlflow, and writes TensorBoard's files anyway."
        raise invalid(text, f"{path}.type")
    inner = raw.get(kind)
    if set(raw) - {"type", kind} or not isinstance(inner, dict):
        raise invalid(f"'{path}' must have 'type' and an object '{kind}', nothing else.", path)
    for name in inner:
        if name not in FIELDS[kind]:
            known = ", ".join(FIELDS[kind])
            text = f"Unknown parameter '{path}.{kind}.{name}'. Known are {known}."
            raise invalid(text, f"{path}.{kind}.{name}", "unknown_parameter")
    project = _name(inner, PROJECTS[kind], f"{path}.{kind}")
    if project is None:
        field = f"{path}.{kind}.{PROJECTS[kind]}"
        raise invalid(f"Missing required parameter '{field}'.", field, "missing_required_parameter")
    name, entity = (_name(inner, field, f"{path}.{kind}") for field in ("name", "entity"))
    return Integration(kind, project, name, entity, _tags(inner.get("tags"), f"{path}.{kind}.tags"))


def _name(raw: Mapping[str, Any], field: str, path: str) -> str | None:
    value = raw.get(field)
    if value is not None and not (isinstance(value, str) and NAME.fullmatch(value)):
        text = f"'{path}.{field}' must be 1 to 128 letters, digits, spaces and . _ - : /"
        raise invalid(text, f"{path}.{field}")
    return value


def _tags(value: object, path: str) -> tuple[str, ...]:
    tags = [] if value is None else value
    if not isinstance(tags, list) or len(tags) > 16:
        raise invalid(f"'{path}' must be a list of at most 16 texts.", path)
    if not all(isinstance(tag, str) and 1 <= len(tag) <= 64 for tag in tags):
        raise invalid(f"Each of '{path}' must be text of 1 to 64 characters.", path)
    return tuple(tags)


def _has_wandb_key() -> bool:
    is_offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun")
    netrc = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    is_logged_in = netrc.exists() and "wandb" in netrc.read_text(encoding="utf-8", errors="replace")
    return is_offline or bool(os.environ.get("WANDB_API_KEY")) or is_logged_in
