"""What runs each second, for each list and for each answer reads only what it needs, however much there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from storage.store import Store, read_metrics

GROWING = (
    "runs",
    "audit",
    "replies",
    "answers",
    "models",
    "cards",
    "deliveries",
    "sent_once",
    "unwanted_messages",
)
"""Tables that grow with everything that ever happened."""
QUERIES: dict[str, Callable[[Store], Any]] = {
    "due runs": lambda store: store.runs.due(5.0, ("awaiting_approval",)),
    "providers of due runs": lambda store: store.runs.providers_due(5.0, ("training",)),
    "unreported runs": lambda store: store.runs.unreported(5.0),
    "runs by state": lambda store: store.runs.in_states(("needs_human", "training")),
    "runs in training": lambda store: store.runs.count_training(),
    "runs on a dataset": lambda store: store.runs.on({1, 2}),
    "results on a dataset": lambda store: store.runs.done((1, 2)),
    "looks of runs": lambda store: store.runs.looks_on([1, 2]),
    "a key's run": lambda store: store.runs.by_key("key"),
    "a job's run": lambda store: store.runs.with_job("ftjob-1"),
    "keys at a provider": lambda store: store.runs.keys_at("local"),
    "open decisions": lambda store: store.interventions.runs_with_open_decisions(),
    "unlinked plans": lambda store: store.replacements.unlinked(5.0),
    "looks": lambda store: store.looks([1, 2]),
    "names of models": lambda store: store.model_names(["tickets"]),
    "a provider's model": lambda store: store.models_at_provider("ft:1"),
    "rival models": lambda store: store.best_models("ab", 10, but="m"),
    "aliases to set": lambda store: store.promotions.to_sync(5.0),
    "bases in use": lambda store: store.promotions.bases(),
    "audit of a run": lambda store: store.audit.entries("run 7"),
    "newest audit entry": lambda store: store.audit.newest(),
    "cached answers": lambda store: store.answers.count(["a", "b"], since=0.0),
    "a model's answers": lambda store: store.answers.totals_of("gpt", since=0.0),
    "opened Homes": lambda store: store.outbox.homes(5.0),
    "a message that was put": lambda store: store.outbox.was_put("reminder 7"),
    "a delivery": lambda store: store.inbox.receive("event 1", {}, now=5.0),
    "open deliveries": lambda store: store.inbox.waiting(),
    "spending of a month": lambda store: store.committed("2026-11"),
    "commitments": lambda store: store.ledger.commitments("2026-11"),
    "metrics": lambda store: read_metrics(store.database, 5.0),
}
WHOLE_INDEX = ("keys at a provider", "metrics")
"""These read one short entry of an index for each run."""

SMALL_INDEX = "deliveries_open"
"""It has only the deliveries that are not handled yet."""


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_reads_a_whole_table_that_grows(name: str, store: Store) -> None:
    statements: list[str] = []
    store.database.utils.conn.set_trace_callback(statements.append)
    QUERIES[name](store)
    store.database.utils.conn.set_trace_callback(None)
    read = [sql for sql in statements if not sql.startswith(("BEGIN", "COMMIT", "--"))]
    assert read
    plans = [row["detail"] for sql in read for row in store.database.rows(f"EXPLAIN QUERY PLAN {sql}")]
    scans = [step for step in plans if step.startswith("SCAN") and step.split()[1] in GROWING]
    if name in WHOLE_INDEX:
        scans = [step for step in scans if "COVERING INDEX" not in step]
    assert [step for step in scans if not step.endswith(SMALL_INDEX)] == [], plans
