"""A dataset on its way out: the form that asks once more, what stands in the way, and what is gone and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.commands import Delete
from bot.views.blocks import Block, Message, code, escape, modal, plain, section
from bot.views.general import sentence
from bot.views.words import counted

FORM = "delete_dataset"


@dataclass(frozen=True)
class Doomed:
    """What goes with it: counts, and the model that programs still ask."""

    dataset: str
    versions: tuple[int, ...]
    is_whole: bool
    runs: int
    measurements: int
    in_use: str | None = None

    @property
    def title(self) -> str:
        one = f"version {self.versions[0]}"
        some = one if len(self.versions) == 1 else f"versions {', '.join(map(str, self.versions))}"
        return self.dataset if self.is_whole else f"{self.dataset}, {some}"

    @property
    def with_it(self) -> str:
        return (
            f"{counted(len(self.versions), 'version')}, {counted(self.runs, 'run')} and "
            f"{counted(self.measurements, 'measurement')}"
        )


def form(doomed: Doomed, private: str) -> Block:
    said = (
        f"This deletes {code(doomed.title)} for good: {doomed.with_it}, with all files, answers and tuned models, "
        "here and at trainers. Costs, approvals and the audit log stay; they hold none of its rows."
    )
    used = f"\n*{escape(doomed.in_use or '')} is in use*: programs that ask for it get an error from then on."
    name = {
        "type": "input",
        "block_id": "name",
        "label": plain("Type the dataset's name to delete it", 75),
        "element": {"type": "plain_text_input", "action_id": "value", "max_length": 40},
    }
    blocks = [section(said + (used if doomed.in_use else "")), name]
    return modal("Delete data", FORM, blocks, submit="Delete for good", private=private)


def rows_question(doomed: Doomed, newest: int, rows: int, held: int) -> str:
    """For the terminal. A next version is made of the `newest`, without the rows."""
    said = (
        f"Take {counted(rows, 'row')} out of {doomed.dataset} for good (those that ask the same are counted)? Version "
        f"{newest} without them becomes the next version. All from before goes: {doomed.with_it}, with files, answers "
        "and tuned models."
    )
    if doomed.in_use:
        said += (
            f" {doomed.in_use} is in use and goes too: programs that ask for it get an error from then on."
        )
    if held:
        said += f" {_held(held)}"
    return said


def taken_out(before: int, rows: int, held: int) -> Message:
    said = (
        f"{counted(rows, 'row')} of version {before} {'was' if rows == 1 else 'were'} taken out in the terminal: this "
        "version has the others, in lines of its own."
    )
    return sentence(f"{said} {_held(held)}" if held else f"{said} The test is the same.")


def _held(held: int) -> str:
    return (
        f"{counted(held, 'row')} of the test {'is' if held == 1 else 'are'} among them: figures from before don't "
        "compare with new ones."
    )


def private(command: Delete, channel: str) -> str:
    """What the form has to hand back."""
    return f"{channel} {command.dataset} {command.before or ''}".strip()


def deleted(doomed: Doomed, by: str, left: Sequence[str], nights: int) -> Message:
    backups = f" Older nightly backups hold it for up to {counted(nights, 'night')} more." if nights else ""
    rest = "".join(f"\n• {escape(one)}" for one in left)
    there = f"\nWhat is left:{rest}" if left else ""
    return sentence(
        f"{code(doomed.title)} was deleted, as {by} asked: {doomed.with_it}. What was posted in Slack stays "
        f"until somebody deletes it there, and so do copies that were made of backups.{backups}{there}"
    )


def not_deleted(dataset: str, why: str) -> Message:
    return sentence(f"{code(dataset)} was not deleted: {why}")
