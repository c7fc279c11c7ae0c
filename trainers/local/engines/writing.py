"""How configs are written: YAML of one key a line, and the script by which a person, or we, start an engine."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from trainers.local.engines.plan import Written

OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # all that is needed lies in folders
Value = str | int | float | bool | None | list[str] | list[dict[str, str]]


def yaml(values: Mapping[str, Value]) -> str:
    return "".join(f"{key}: {_scalar(value)}\n" for key, value in values.items())


def _scalar(value: Value) -> str:
    """As JSON, which YAML includes, but for small numbers: YAML 1.1 reads 1e-05 as text and 1.0e-05 as a number."""
    if isinstance(value, float):
        mantissa, e, exponent = repr(value).partition("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}{e}{exponent}"
    return json.dumps(value)


def write_files(folder: Path, written: Written) -> Path:
    """All that the engine needs, in `folder`; returns the script that starts it."""
    folder.mkdir(exist_ok=True)
    for name, text in written.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    script = folder / "run.sh"
    script.write_text(_script(written), encoding="utf-8")
    script.chmod(0o700)
    return script


def _script(written: Written) -> str:
    environment = OFFLINE | dict(written.environment)
    settings = [f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())]
    *before, last = (shlex.join(command) for command in written.commands)
    lines = [
        "#!/bin/sh",
        "# Trains this job as the trainer does, and goes on from the newest checkpoint in output/.",
        "# By hand only while the trainer doesn't: two at once would write into one folder.",
        'cd "$(dirname "$0")" || exit 1',
        *settings,
        *(f"{command} || exit 1" for command in before),
        f"exec {last}",
    ]
    return "\n".join(lines) + "\n"
