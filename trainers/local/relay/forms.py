"""The form of what the server itself reads of a node's files: a mark that says nonsense never gets its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import orjson

Kinds = tuple[type, ...]

MOST_BYTES = 64 * 1024  # the server holds it in memory
NOTHING = type(None)
NUMBER: Kinds = (int, NOTHING)
PROGRESS: Mapping[str, Kinds] = {
    "step": (int,),
    "total_steps": NUMBER,
    "trained_tokens": NUMBER,
    "estimated_finish": NUMBER,
    "stopped": (str, NOTHING),
    "result_step": NUMBER,
    "winner": NUMBER,
}
FAILURE: Mapping[str, Kinds] = {"code": (str,), "message": (str,), "param": (str, NOTHING)}
END: Mapping[str, Kinds] = {**PROGRESS, "step": NUMBER, "trained_tokens": (int,)}
FORMS = {"DONE": END, "progress.json": PROGRESS, "FAILED": FAILURE}


def is_formed(path: str, file: Path) -> bool:
    """Whether `file`, which is to stand at `path` of a job's folder, says what the server reads there; of others it
    reads nothing."""
    form = FORMS.get(path)
    if form is None:
        return True
    if file.stat().st_size > MOST_BYTES:
        return False
    try:
        said = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError:
        return False
    return isinstance(said, dict) and all(isinstance(said.get(name), kinds) for name, kinds in form.items())
