"""Opens what a story needs (a workspace and a running bot), has it performed, prints its last lines, and ends it all.

It knows no story: each hands it what to perform.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.rule import Rule

from demo.local_slack import LocalSlack, find_local_slack
from demo.people import ANA, BEN, TICKETS
from demo.service import RunningBot
from demo.slack_emulator import SlackEmulator
from demo.steps import Scene
from demo.transcript import Transcript
from demo.workspace import Workspace, WorkspaceError

MARKER = ".finetune-demo"


@dataclass(frozen=True)
class Setting:
    """Where a story plays. `folder` is emptied at the start; `model` is the base model's folder. With `stay` everything
    keeps running afterwards."""

    folder: Path
    model: Path
    stay: bool
    in_terminal: bool


@dataclass
class Timeline:
    """When each stage finished, in seconds since the start."""

    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        self.seconds.setdefault(name, time.monotonic() - self.started)


Ending = Callable[[Mapping[str, float]], Sequence[str]]
"""The last lines, from the seconds of each stage."""

Performance = Callable[[Scene, Timeline], Ending]
"""What the people of a story do."""


def run(setting: Setting, dataset: str, perform: Performance) -> int:
    """Plays a story about the dataset of this name. Returns the exit code, 0 if it came to its end."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    timeline = Timeline()
    try:
        _prepare_folder(setting.folder)
        if not (setting.model / "config.json").is_file():
            raise WorkspaceError(f"there is no base model in {setting.model}: run `make setup`")
        with _workspace(setting, console) as workspace, _bot(setting, workspace) as bot:
            console.print(Rule(f"#{TICKETS.name}"))
            transcript = Transcript(workspace, [TICKETS.id], console)
            scene = Scene(workspace, transcript, bot, setting.folder, dataset)
            with transcript.running():
                ending = perform(scene, timeline)
                transcript.refresh()
            timeline.mark("all")
            console.print(Rule("the end"))
            for line in ending(timeline.seconds):
                console.print(line)
            if setting.stay:
                _stay(workspace, bot, console)
    except WorkspaceError as trouble:
        console.print(f"[red]The demo stopped:[/red] {trouble}", markup=True)
        console.print(f"Logs: {setting.folder}/finetune.log and {setting.folder}/data/trainer/trainer.log")
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _prepare_folder(folder: Path) -> None:
    """Empties the folder if a demo created it."""
    if folder.exists() and not (folder / MARKER).exists():
        raise WorkspaceError(
            f"{folder} exists and was not created by a demo: choose another one with --folder"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


@contextmanager
def _workspace(setting: Setting, console: Console) -> Iterator[SlackEmulator | LocalSlack]:
    binary = None
    if not setting.in_terminal:
        binary = find_local_slack()
    if binary is None:
        with SlackEmulator() as emulator:
            yield emulator
        return
    folder = setting.folder.resolve() / "slack"
    folder.mkdir()
    with LocalSlack(binary, folder) as local_slack:
        console.print(
            f"A Slack workspace is running at [bold]{local_slack.url}[/bold]: watch in a browser.",
            markup=True,
        )
        yield local_slack


@contextmanager
def _bot(setting: Setting, workspace: SlackEmulator | LocalSlack) -> Iterator[RunningBot]:
    approvers = (ANA.id, BEN.id)  # what is against the evidence takes two
    with RunningBot(setting.folder, workspace.access, setting.model, approvers=approvers, serves=True) as bot:
        if isinstance(workspace, LocalSlack):
            workspace.wait_for_bot()
        else:
            workspace.deliver_to(bot.request_url)
        yield bot


def _stay(workspace: Workspace, bot: RunningBot, console: Console) -> None:
    where = "There is no browser workspace here"
    if workspace.url:
        where = f"Open {workspace.url}"
    console.print(f"\n{where}; type /finetune as {ANA.real_name} or {BEN.real_name}. Ctrl-C ends it.")
    while True:
        bot.check_alive()
        time.sleep(1)
