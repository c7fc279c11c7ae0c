"""The verdict on records written by hand: it counts what people were shown, not what the bot's cards say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from demo.people import BEN
from tests.bot.world import CLEO
from tests.chaos.records import Record, read
from tests.chaos.stormy_peers import record_paths
from tests.chaos.verdict import Verdict, judge

PLAN = "0123456789abcdef"
NO = {"text": "This run may cost up to $0.06, and $0.04 of this month's $0.56 are left."}
MOVED_ON = {"text": "Run 1 has moved on: it was approved."}


@dataclass
class Records:
    folder: Path
    provider: Record
    slack: Record
    approvals: list[tuple[str, str]] = field(default_factory=list)

    def approve(self, user: str, *, acked: bool = True, whispered: object = None) -> None:
        """Records a click, and either the answer to it or the form that it opened."""
        click = {"user": user, "action": "approve_plan", "value": PLAN, "answer_at": f"R{user}"}
        self.slack.add("delivered", acked=True, **click)
        if whispered:
            self.slack.add("whispered", answer_at=f"R{user}", args=whispered)
        else:
            form = {"user": user, "action": "approve_form", "value": PLAN, "answer_at": ""}
            self.slack.add("delivered", acked=acked, **form)

    def create(self) -> None:
        self.provider.add("created", job="ftjob-1", key="k", plan=PLAN[:12], model="tickets000-1")

    def train(self) -> None:
        self.create()
        self.provider.add("succeeded", job="ftjob-1", tokens=0)

    def post(self, text: str) -> None:
        self.slack.add("called", method="chat.postMessage", args={"text": text}, ts="1.0", error=None)

    def verdict(self, *excused: str, replaced: tuple[str, ...] = ()) -> Verdict:
        paths = record_paths(self.folder)
        return judge(*paths, 20.0, approvals=self.approvals, replaced=replaced, excused=excused)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    provider, slack = (Record(path) for path in record_paths(tmp_path))
    yield Records(tmp_path, provider, slack)
    provider.close()
    slack.close()


def test_a_plan_is_lost_if_two_forms_were_acked_and_it_never_started(records: Records) -> None:
    records.approve(BEN.id)
    records.approve(CLEO.id)
    assert (records.verdict().due, records.verdict().lost) == (1, 1)
    assert not records.verdict().is_clean
    assert records.verdict(replaced=(PLAN,)).due == 0, "its requester made another"
    records.create()
    assert (records.verdict().due, records.verdict().lost) == (1, 0)


def test_one_persons_forms_or_unacked_forms_make_no_plan_due(records: Records) -> None:
    records.approve(BEN.id)
    records.approve(BEN.id)
    records.approve(CLEO.id, acked=False)
    assert (records.verdict().due, records.verdict().lost) == (0, 0)


@pytest.mark.parametrize("answer", [MOVED_ON, NO], ids=["moved-on", "no"])
def test_an_answer_to_a_click_is_a_yes_only_if_that_approval_is_stored(
    records: Records, answer: object
) -> None:
    records.approve(BEN.id)
    records.approve(CLEO.id, acked=False)
    records.approve(CLEO.id, whispered=answer)
    assert (records.verdict().due, records.verdict().lost) == (0, 0)
    records.approvals.append((PLAN, CLEO.id))
    assert (records.verdict().due, records.verdict().lost) == (1, 1)


def test_each_missing_message_about_a_trained_model_is_unposted_unless_slack_refused_it(
    records: Records,
) -> None:
    records.train()
    assert records.verdict().unposted == 1, "its result"
    records.post("Result of run 1. Failed … acme-small on tickets000, 10 test rows")
    assert records.verdict().unposted == 4, "the end of its card, two plots and the report"
    records.post("Run 1 is done: acme-small on tickets000")
    records.post("Quality against price of the tuned model, acme-small on tickets000")
    records.post("Report of run 1: acme-small on tickets000")
    assert records.verdict().unposted == 1
    assert records.verdict("Loss by training step on tickets000").unposted == 0


def test_a_line_that_is_being_written_is_not_read_yet(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    record = Record(path)
    record.add("created", job="ftjob-1")
    record.add("called", args="a long message")
    record.close()
    path.write_bytes(path.read_bytes()[:-9])
    assert [line["what"] for line in read(path)] == ["created"]
