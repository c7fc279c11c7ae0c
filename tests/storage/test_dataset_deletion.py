"""What the deletion of a dataset erases from the database. That nothing is left elsewhere is tested in tests/bot."""

from __future__ import annotations

import json
import re
from dataclasses import is_dataclass
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bot.values.runs import RunResult
from storage.questions import NewAsk
from storage.records import CachedAnswer
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


def test_a_question_to_what_is_in_use_is_erased_with_its_answer(store: Store) -> None:
    run = add_run(store)
    ask = store.questions.add(
        NewAsk("U1", "C1", "team/tickets", "tickets", "where is my quuxnightjar?", "2026-11", 700, 1), now=1.0
    )
    store.questions.mark_sent(ask, now=2.0)
    store.answers.keep([CachedAnswer("k1", "openai/gpt", "a quuxnightjar", 3, 4, 0.1, 2.0)], f"ask {ask.id}")
    with store.transaction():
        store.deletions.erase([run.dataset_id], "tickets", files=[], about=[], is_whole=True, now=5.0)
    assert store.questions.waiting() == [] and store.answers.read(["k1"]) == {}
    assert store.questions.committed("2026-11") == 700, "it was sent, so it may be billed"


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
