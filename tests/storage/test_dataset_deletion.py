"""What the deletion of a dataset erases from the database. That nothing is left elsewhere is tested in tests/bot."""

from __future__ import annotations

import json
import re
from dataclasses import is_dataclass
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bot.values.runs import RunResult
from storage.store import Store
from tests.storage.conftest import add_run
from trainers.json_values import stored_names

# The texts of a run's result that no row and no person wrote: names of models, and our own sentences. A new text is
# either added here or erased by storage/deletion/dataset_deletion.py.
OUR_TEXTS = {
    "arms.chosen",
    "arms.outcome",
    "judge.declined",
    "judge.failed",
    "judge.pair.first.model",
    "judge.pair.second.model",
    "judge.unpaired",
    "no_encoder",
    "not_worse.other",
    "start",
}


def test_a_deletion_erases_every_text_in_a_result_that_comes_from_rows(store: Store) -> None:
    run = add_run(store)
    result = json.dumps(_fill(RunResult, ""))
    RunResult.from_json(result)
    store.database.change("UPDATE runs SET result = ? WHERE id = ?", (result, run.id))
    with store.transaction():
        store.deletions.erase([run.dataset_id], "tickets", files=[], about=[], is_whole=True, now=5.0)
    left = re.findall(r"text of ([\w.]+)", str(store.runs.get(run.id)))
    assert set(left) == OUR_TEXTS


def _fill(hint: Any, path: str) -> Any:
    """A value of this type as JSON, in which each text says which field it is of."""
    if hint is str:
        return f"text of {path}"
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        names = stored_names(hint)
        return {stored: _fill(hints[name], f"{path}.{stored}".strip(".")) for stored, name in names.items()}
    if get_origin(hint) in (Union, UnionType):
        return _fill(next(kind for kind in get_args(hint) if kind is not NoneType), path)
    if get_origin(hint) is tuple:
        kinds = [kind for kind in get_args(hint) if kind is not Ellipsis]
        return [_fill(kind, path) for kind in kinds]
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    return str(hint(0)) if hint is Decimal else hint(0)
