"""Tinker's list of usage: what its own package reads and asks, we read and ask too."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.local.engines.tinker_peer import ADMIN_KEY, KEY, ROOT, TinkerPeer, start_bare_peer, tinker_python
from trainers.client.vendor_bills import (
    LONGEST_WINDOW,
    Billing,
    find_billing_key,
    read_usage,
    window_query,
    windows,
)
from trainers.errors import InvalidResponse, Refused
from trainers.host import TINKER_ADMIN_KEY, child_environment, trainer_environment
from trainers.methods import HOSTED_JOB
from trainers.providers.providers import load_providers
from trainers.types import BilledUsage, Provider

DAY_S = 24 * 3600.0
NOON = datetime(2026, 11, 3, 12, tzinfo=UTC).timestamp()
TRAINING = {"type": "training", "token_count": 100_000}
EVENTS = [
    {"type": "sampling_prefill", "token_count": 100_000, "cached": False},
    {"type": "sampling_sample", "token_count": 100_000},
    {"type": "checkpoint", "count": 2},
    {"type": "storage", "gigabyte_hours": 720.0},
]


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinkerPeer]:
    with start_bare_peer(tmp_path / "peer", monkeypatch) as started:
        mine: dict[str, Any] = {"at": NOON, "session_id": "s-1", "metadata": {HOSTED_JOB: "ftjob-1"}}
        usage = [{**mine, "event_info": info} for info in (TRAINING, *EVENTS)]
        usage.append({"at": NOON - DAY_S, "session_id": "s-2", "metadata": None, "event_info": TRAINING})
        started.bill(now=NOON, usage=usage, invoiced_until=NOON - DAY_S / 2, rate=0.5)
        yield started


def provider_at(peer: TinkerPeer) -> Provider:
    row = next(row for row in load_providers() if row.name == "tinker")
    return replace(row.provider, billing_base_url=f"{peer.address}/api/v1")


# Programs for a Python that has the package: it lists usage by its own client, and parses the queries in its arguments.
LIST_USAGE = """
import sys, tinker
client = tinker.AdminClient(base_url=sys.argv[1], api_key=sys.argv[2])
print(client.get_billing_usage(sys.argv[3], sys.argv[4]).result().model_dump_json())
"""
PARSE_QUERIES = """
import json, sys
from tinker.types import GetBillingUsageRequest
for query in json.loads(sys.argv[1]):
    print(GetBillingUsageRequest.model_validate(query).model_dump_json())
"""


def run(program: str, *arguments: str) -> list[Any]:
    """What a program prints, a line of JSON each."""
    command = [str(tinker_python()), "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.deep
def test_we_read_what_the_vendors_package_reads(peer: TinkerPeer) -> None:
    with closing(Billing(provider_at(peer), ADMIN_KEY)) as billing:
        ours = billing.usage(NOON - DAY_S, NOON)
    [theirs] = run(LIST_USAGE, peer.address, ADMIN_KEY, "2026-11-02T00:00:00Z", "2026-11-04T00:00:00Z")
    assert theirs["cost_data_through"] == "2026-11-03T00:00:00Z"
    assert ours.invoiced_until == NOON - DAY_S / 2
    assert dict(ours.metadata["s-1"]) == theirs["sessions"]["s-1"]["user_metadata"] == {HOSTED_JOB: "ftjob-1"}
    assert dict(ours.metadata["s-2"]) == {}
    assert len(ours.usage) == len(theirs["data"]) == 6
    for event, other in zip(ours.usage, theirs["data"], strict=True):
        assert event.session == other["session_id"]
        assert event.ends_at == datetime.fromisoformat(other["bucket_end"]).timestamp()
        assert str(event.usd) == str(other["estimated_cost_usd"])
    kinds = [event.kind for event in ours.usage]
    assert kinds == ["training", "training", "sampling", "sampling", "checkpoint", "storage"]
    # Before the invoice's end at its rate, today at the list price, and checkpoints never.
    prices = [str(event.usd) for event in ours.usage]
    assert prices == ["0.05", "0.044", "0.044", "0.044", "None", "0.1"]


@pytest.mark.deep
@pytest.mark.parametrize("days", [0, 1, 13, 14, 40])
def test_the_vendors_package_takes_our_queries(days: int) -> None:
    spans = list(windows(NOON - days * DAY_S, NOON))
    queries = [window_query(first, end) for first, end in spans]
    for query, parsed in zip(queries, run(PARSE_QUERIES, json.dumps(queries)), strict=True):
        assert parsed == query
    for first, end in spans:
        assert (first.hour, first.minute, end.hour, end.minute) == (0, 0, 0, 0)
        assert timedelta(0) < end - first <= LONGEST_WINDOW
    assert [end for _, end in spans[:-1]] == [first for first, _ in spans[1:]]
    assert spans[0][0].timestamp() <= NOON - days * DAY_S
    assert spans[-1][1].timestamp() > NOON


@pytest.mark.deep
def test_a_long_time_is_read_in_several_windows(peer: TinkerPeer) -> None:
    with closing(Billing(provider_at(peer), ADMIN_KEY)) as billing:
        listed = billing.usage(NOON - 40 * DAY_S, NOON)
    assert peer.state["calls"].count("GET /billing/usage/events") == 3
    assert len(listed.usage) == 6


@pytest.mark.deep
@pytest.mark.parametrize(("key", "status"), [(KEY, 403), ("tml-other", 401)])
def test_a_key_without_the_right_is_refused_and_named(peer: TinkerPeer, key: str, status: int) -> None:
    with closing(Billing(provider_at(peer), key)) as billing, pytest.raises(Refused) as refused:
        billing.usage(NOON, NOON)
    assert refused.value.status == status
    assert TINKER_ADMIN_KEY in str(refused.value)
    assert key not in str(refused.value)


def event(**changes: Any) -> dict[str, Any]:
    row = {"bucket_end": "2026-11-03T13:00:00Z", "session_id": "s-1", "event_info": TRAINING}
    return {"data": [{**row, **changes}]}


def test_usage_of_a_kind_that_is_new_counts_as_other() -> None:
    (read,) = read_usage(event(event_info={"type": "rent"}, estimated_cost_usd=0.1), "reading").usage
    assert read == BilledUsage("other", "s-1", NOON + 3600, Decimal("0.1"))


@pytest.mark.parametrize(
    "changes",
    [
        {"estimated_cost_usd": -0.1},
        {"estimated_cost_usd": "much"},
        {"estimated_cost_usd": True},
        {"estimated_cost_usd": float("nan")},
        {"event_info": None},
        {"bucket_end": "yesterday"},
        {"bucket_end": None},
    ],
)
def test_a_list_that_makes_no_sense_is_no_bill(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidResponse, match="reading: "):
        read_usage(event(**changes), "reading")


def test_no_trainer_gets_the_administrators_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TINKER_ADMIN_KEY, "tml-admin")
    assert TINKER_ADMIN_KEY not in child_environment()
    assert TINKER_ADMIN_KEY not in trainer_environment(())


def test_the_key_has_its_name_in_the_vendors_row() -> None:
    rows = {row.name: row.provider for row in load_providers()}
    assert find_billing_key({TINKER_ADMIN_KEY: "tml-admin"}, rows["tinker"]) == "tml-admin"
    assert find_billing_key({}, rows["tinker"]) is None
    assert find_billing_key({TINKER_ADMIN_KEY: "tml-admin"}, rows["openai"]) is None


def test_our_engine_tags_its_sessions_with_the_key_that_we_look_for() -> None:
    # The script runs in another environment, so it can't import the name.
    script = ROOT / "trainers" / "local" / "engines" / "scripts" / "tinker_runs.py"
    assert re.findall(r'^JOB = "(\w+)"', script.read_text(), re.MULTILINE) == [HOSTED_JOB]
