"""What a team does beside its runs while the bot is killed: people label rows, have a model label others, and delete a
dataset with its run. Afterwards each must have happened once and whole, and nothing may be left of what was deleted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from bot.cards.datasets import row_labels
from bot.cards.evidence import evaluations
from bot.cards.models import deployments
from demo.people import ANA, BEN
from demo.workspace import Person, PostedMessage
from storage.driver import sqlite3
from tests.bot import canaries
from tests.bot.props import LABELS
from tests.bot.world import DORA, PRIVATE, TARGET
from tests.chaos.stormy_peers import StormySlack
from tests.chaos.verdict import has_whole_result
from tests.peers.service import Service
from trainers.dataset import Report

LABELLED, TAUGHT = "labelled", "taught"
ROWS = 12
WORD = {"a deleted row's word": "quuxnightjar"}
AGAIN_S = 5.0
SHOWN_S = 2.0
MEASURE = f"/finetune baseline {TAUGHT} models={TARGET} candidates=zero bar=5%"
OTHER_POINTS = (
    "POST /chat/completions arrived",
    "POST /chat/completions done",
    "views.open done",
    "views.update arrived",
    "views.update done",
)
Seen = TypeVar("Seen")


def new_rows(name: str) -> str:
    """Rows without labels that no dataset has."""
    texts = (f"New case {number} of {name}: a word about {LABELS[number % 3]}" for number in range(ROWS))
    return "\n".join(["text", *texts]) + "\n"


@dataclass
class OtherWork:
    """`deleted` is the dataset to delete once the report of its run was posted. `insist` repeats what a person does
    until it returns something, since the bot may be killed at any moment."""

    slack: StormySlack
    desktop: Path
    deleted: str
    insist: Callable[[Callable[[], object]], object]
    _asked_at: dict[str, float] = field(default_factory=dict)
    _pressed: set[str] = field(default_factory=set)

    def label_and_delete(self) -> None:
        self.insist(self._open_batch)
        self.insist(self._label_rows)
        self.insist(self._make_version)
        self.insist(lambda: has_whole_result(self.slack.record.path, self.deleted))
        self.insist(self._delete)

    def distil(self) -> None:
        self.insist(self._measure_teacher)
        self.insist(self._ask_teacher)
        self.insist(partial(self._agree, f"rows of {TAUGHT}"))
        self.insist(lambda: self._find(f"{TAUGHT}: {ROWS} rows labelled by {TARGET}"))

    def keep_machine(self) -> None:
        """Keeps the machine of the run whose dataset is deleted, unless its result came first."""
        self.insist(self._keep)

    # Labels by people.

    def _open_batch(self) -> bool:
        if self._find(LABELLED, row_labels.LABEL_ROWS):
            return True
        answers = {"count": str(ROWS), "file": self._upload_rows(LABELLED)}
        self._fill_in(DORA, f"/finetune label {LABELLED}", answers)
        return False

    def _label_rows(self) -> bool:
        """Labels the row that the form shows, or opens the form. A form that doesn't change was of a killed bot."""
        form = self.slack.view(DORA.id)
        if form is None:
            return self._open_rows()
        has_row = row_labels.CHANGE in json.dumps(form.blocks)
        if has_row:
            self.slack.press(DORA.id, row_labels.CHANGE)
        if not has_row or not self._wait_for(lambda: self.slack.view(DORA.id) != form):
            self.slack.close_modal(DORA.id)
        return False

    def _open_rows(self) -> bool:
        """Returns True if the card counts all rows as labelled; otherwise opens the form."""
        card = self._find(LABELLED, row_labels.LABEL_ROWS)
        if card is None:
            return False
        if f"{ROWS} of {ROWS} new rows labelled" in _words(card):
            return True
        self.slack.click(DORA.id, PRIVATE.id, card.ts, row_labels.LABEL_ROWS)
        self._wait_for(lambda: self.slack.view(DORA.id))
        return False

    def _make_version(self) -> bool:
        card = self._find(LABELLED, row_labels.MAKE_VERSION)
        if card:
            self.slack.click(DORA.id, PRIVATE.id, card.ts, row_labels.MAKE_VERSION)
        return self._find(f"{LABELLED}: {ROWS} rows labelled by 1 person") is not None

    # Labels by a model.

    def _measure_teacher(self) -> bool:
        """Has the teacher measured. Nobody is asked about the cost if a run on the same rows stored all answers."""
        if self._find(f": {TAUGHT}, ", "held-out rows"):
            return True
        is_asked = self._find(f" on {TAUGHT}") or self._find(f" of {TAUGHT}")
        if is_asked:
            self._agree(f" on {TAUGHT}")
        elif self._is_time(MEASURE):
            self.slack.command(ANA.id, PRIVATE.id, MEASURE)
        return False

    def _ask_teacher(self) -> bool:
        """The form opens only once the teacher's result is there."""
        if self._find(f"rows of {TAUGHT}", evaluations.MEASURE):
            return True
        answers = {"file": self._upload_rows(TAUGHT), "terms": ["yes"]}
        self._fill_in(ANA, f"/finetune distill {TAUGHT} teacher={TARGET}", answers)
        return False

    def _agree(self, words: str) -> bool:
        """Presses the button of a measurement's card until the card doesn't ask any more."""
        card = self._find(words, evaluations.MEASURE)
        if card:
            self.slack.click(ANA.id, PRIVATE.id, card.ts, evaluations.MEASURE)
            self._pressed.add(words)
            return False
        return words in self._pressed

    # A machine and a deletion.

    def _keep(self) -> bool:
        card = self._find(f"{self.deleted}-", deployments.KEEP)
        if card:
            self.slack.click(BEN.id, PRIVATE.id, card.ts, deployments.KEEP)
        is_kept = self._find(f"{self.deleted}-", f"kept by <@{BEN.id}>") is not None
        return is_kept or has_whole_result(self.slack.record.path, self.deleted)

    def _delete(self) -> bool:
        if self._find(f"`{self.deleted}` was deleted"):
            return True
        self._fill_in(DORA, f"/finetune delete {self.deleted}", {"name": self.deleted})
        return False

    # What a person sees and does.

    def _find(self, *words: str) -> PostedMessage | None:
        """Returns the newest message with these words."""
        messages = reversed(self.slack.messages(PRIVATE.id))
        return next((each for each in messages if all(word in _words(each) for word in words)), None)

    def _fill_in(self, person: Person, line: str, answers: dict[str, object]) -> None:
        """Types a command and submits the form that it opens, from time to time."""
        if not self._is_time(line):
            return
        while self.slack.view(person.id) is not None:  # of an attempt that met an error
            self.slack.close_modal(person.id)
        self.slack.command(person.id, PRIVATE.id, line)
        form = self._wait_for(lambda: self.slack.view(person.id))
        if form:
            fields = json.dumps(form.blocks)
            shown = {name: value for name, value in answers.items() if f'"block_id": "{name}"' in fields}
            self.slack.submit_modal(person.id, shown)  # type: ignore[arg-type]

    def _is_time(self, line: str) -> bool:
        now = time.monotonic()
        is_time = now > self._asked_at.get(line, 0.0) + AGAIN_S
        if is_time:
            self._asked_at[line] = now
        return is_time

    def _wait_for(self, look: Callable[[], Seen]) -> Seen:
        until = time.monotonic() + SHOWN_S
        while not (seen := look()) and time.monotonic() < until:
            time.sleep(0.02)
        return seen

    def _upload_rows(self, name: str) -> str:
        self.desktop.mkdir(exist_ok=True)
        path = self.desktop / f"{name}.csv"
        path.write_text(new_rows(name), encoding="utf-8")
        person = DORA if name == LABELLED else ANA
        return self.slack.upload(person.id, path)


def find_problems(data: Path, grown: Sequence[str], deleted: str, service: Service) -> list[str]:
    """Returns what went wrong, by the bot's data and by the provider's own list of files. `grown` are the datasets to
    which rows were added."""
    database = data / "finetune.db"
    problems = [_problem_of_version(database, name) for name in grown]
    files = [path for path in data.rglob("*") if "backups" not in path.parts]
    left = {*canaries.in_files(files, WORD), *canaries.in_database(database, WORD)}
    problems += [f"{place} has {word}" for place, word in left]
    problems += [
        f"the provider has {file.name}"
        for file in service.files.values()
        if canaries.in_text(file.content.decode(), WORD)
    ]
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        (undeleted,) = connection.execute(
            "SELECT count(*) FROM datasets WHERE name = ? AND forgotten_at IS NULL", (deleted,)
        ).fetchone()
    if undeleted:
        problems.append(f"{deleted} was not deleted")
    return [problem for problem in problems if problem]


def _problem_of_version(database: Path, name: str) -> str:
    """Returns what is wrong with the versions of a dataset to which all new rows were added once."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        versions = connection.execute(
            "SELECT state, report FROM datasets WHERE name = ? ORDER BY version", (name,)
        ).fetchall()
    states = [state for state, _ in versions]
    if states != ["ready", "ready"]:
        return f"{name} has the versions {states}"
    diff = Report.from_json(versions[1][1]).diff
    if diff is None or (diff.added, diff.removed, diff.relabelled) != (ROWS, 0, 0):
        return f"the new version of {name} differs by {diff}"
    return ""


def _words(message: PostedMessage) -> str:
    return f"{message.text} {json.dumps(message.blocks, ensure_ascii=False)}"
