"""The demo's story: two people turn a file of tickets into a better model, on this machine, in a few minutes.

All parts are real: `finetune run` and its trainer as child processes, a Slack workspace on localhost, a model that
trains. This module does what people would do; the transcript prints what they see.
"""

from __future__ import annotations

import html
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.rule import Rule

from demo.drawing import headline
from demo.local_slack import LocalSlack, find_local_slack
from demo.people import ANA, BEN, TICKETS
from demo.service import RunningBot
from demo.slack_emulator import SlackEmulator
from demo.summary import Summary, has_free_models, has_labels, is_trained, summary
from demo.transcript import Transcript, names_in
from demo.workspace import Modal, PostedMessage, Workspace, WorkspaceError

EXAMPLE = Path(__file__).parents[1] / "examples" / "support_tickets.csv"
MARKER = ".finetune-demo"
TARGET = "local/smollm2-135m"
PLAN = f"current=gpt-4o volume=100M target={TARGET}"
PASSES = 2  # epochs over our own tickets; a third, as by the rule, takes half a minute on fast cores, two on others
QUICK = "candidates=classical,encoder"  # without a language model they take a few seconds
# Retrieval is left out: its prompts of 630 tokens took two thirds as long as the training.
WITHOUT_RETRIEVAL = "candidates=classical,encoder,zero,kshot"
TEXTS = "candidates=zero,kshot"  # fewer candidates, because long answers take longer
ASKED = "hi, the courier says delivered but there is no parcel here, order TP-55120"
USE_CANDIDATE = "use_candidate"
USE_TUNED = "put_to_work"
APPROVE_USE = "approve_promotion"
CALLED = "now get it, without a change"
REASON = "a demo on this machine, nothing depends on it"
MEASUREMENT_PATIENCE_S = 3 * 3600.0
RUN_PATIENCE_S = 3 * 3600.0


@dataclass(frozen=True)
class Story:
    """What to play. `data` is None for the project's own tickets. `folder` is emptied at the start. `epochs` is None to
    use the rule."""

    data: Path | None
    text: str | None
    label: str | None
    stay: bool
    in_terminal: bool
    folder: Path
    model: Path
    epochs: int | None = None

    @property
    def file(self) -> Path:
        return self.data or EXAMPLE

    @property
    def name(self) -> str:
        return "tickets" if self.data is None else "mydata"

    @property
    def plan(self) -> str:
        epochs = self.epochs
        if epochs is None and self.data is None:
            epochs = PASSES
        if not epochs:
            return PLAN
        return f"{PLAN} epochs={epochs}"


@dataclass
class Timeline:
    """When each stage finished, in seconds since the start."""

    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        self.seconds.setdefault(name, time.monotonic() - self.started)


def play(story: Story) -> int:
    """Plays the story. Returns the exit code, 0 if it came to its end."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    timeline = Timeline()
    try:
        _prepare_folder(story.folder)
        if not (story.model / "config.json").is_file():
            raise WorkspaceError(f"there is no base model in {story.model}: run `make setup`")
        with _workspace(story, console) as workspace, _bot(story, workspace) as bot:
            summary = _perform(story, workspace, bot, console, timeline)
            timeline.mark("all")
            console.print(Rule("the end"))
            for line in summary.lines(timeline.seconds):
                console.print(line)
            if story.stay:
                _stay(workspace, bot, console)
    except WorkspaceError as trouble:
        console.print(f"[red]The demo stopped:[/red] {trouble}", markup=True)
        console.print(f"Logs: {story.folder}/finetune.log and {story.folder}/data/trainer/trainer.log")
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
def _workspace(story: Story, console: Console) -> Iterator[SlackEmulator | LocalSlack]:
    binary = None
    if not story.in_terminal:
        binary = find_local_slack()
    if binary is None:
        with SlackEmulator() as emulator:
            yield emulator
        return
    folder = story.folder.resolve() / "slack"
    folder.mkdir()
    with LocalSlack(binary, folder) as local_slack:
        console.print(
            f"A Slack workspace is running at [bold]{local_slack.url}[/bold]: watch in a browser.",
            markup=True,
        )
        yield local_slack


@contextmanager
def _bot(story: Story, workspace: SlackEmulator | LocalSlack) -> Iterator[RunningBot]:
    approvers = (ANA.id, BEN.id)  # what is against the evidence takes two
    with RunningBot(story.folder, workspace.access, story.model, approvers=approvers, serves=True) as bot:
        if isinstance(workspace, LocalSlack):
            workspace.wait_for_bot()
        else:
            workspace.deliver_to(bot.request_url)
        yield bot


def _perform(
    story: Story, workspace: Workspace, bot: RunningBot, console: Console, timeline: Timeline
) -> Summary:
    console.print(Rule(f"#{TICKETS.name}"))
    transcript = Transcript(workspace, [TICKETS.id], console)
    with transcript.running():
        _upload(story, workspace, transcript)
        timeline.mark("first card")
        if has_free_models(story.folder):
            _measure(story, workspace, transcript, bot, 1, QUICK)
            timeline.mark("free models")
            candidates = "" if story.data else WITHOUT_RETRIEVAL
            _measure(story, workspace, transcript, bot, 2, candidates)
        else:
            _measure(story, workspace, transcript, bot, 1, TEXTS)
        timeline.mark("measured")
        _say_why(workspace, transcript, _estimate(story, workspace, transcript))
        _start(story, workspace, transcript)
        _approve(workspace, transcript)
        result = _wait_for_result(story, workspace, transcript, bot, timeline)
        timeline.mark("result")
        verdict = _estimate(story, workspace, transcript)
        if story.data is None:
            _try(story, workspace, transcript)
        answer = _put_to_work(story, workspace, transcript, bot)
        transcript.refresh()
    return summary(story.folder, result, verdict, answer)


def _upload(story: Story, workspace: Workspace, transcript: Transcript) -> None:
    _type(workspace, transcript, ANA.id, "/finetune upload")
    modal = transcript.until(lambda: workspace.view(ANA.id), "the upload form", seconds=15)
    answers = {
        "file": workspace.upload(ANA.id, story.file),
        "name": story.name,
        "text": story.text or "",
        "label": story.label or "",
        "channel": TICKETS.id,
    }
    transcript.filled(ANA.id, modal, {**answers, "file": story.file.name})
    sent = workspace.submit_modal(ANA.id, answers)
    if not sent.accepted:
        raise WorkspaceError(f"the form was not accepted: {'; '.join(sent.errors.values())}")
    card = transcript.until(lambda: _find(workspace, " is ready", "can't be used"), "the check", seconds=300)
    if "can't be used" in card.text:
        raise WorkspaceError(f"the file can't be trained on. {card.text}")


def _measure(
    story: Story, workspace: Workspace, transcript: Transcript, bot: RunningBot, number: int, candidates: str
) -> None:
    """Runs measurement `number` of the alternatives to tuning. It is free here, so it starts at once."""
    _type(workspace, transcript, ANA.id, f"/finetune baseline {story.name} {candidates}".rstrip())

    def look() -> PostedMessage | None:
        bot.check_alive()
        return _find(workspace, *(f"m{number} {end}" for end in ("is done", "failed", "was cancelled")))

    message = transcript.until(look, "the measurement", seconds=MEASUREMENT_PATIENCE_S)
    if "is done" not in message.text:
        raise WorkspaceError(message.text)


def _estimate(story: Story, workspace: Workspace, transcript: Transcript) -> str:
    """Asks for an estimate and returns its headline."""
    before = len(workspace.ephemerals(ANA.id))
    _type(workspace, transcript, ANA.id, f"/finetune estimate {story.name} {story.plan}")
    messages = transcript.until(lambda: workspace.ephemerals(ANA.id)[before:], "the estimate", seconds=15)
    return headline(messages[-1], names_in(workspace))


def _say_why(workspace: Workspace, transcript: Transcript, verdict: str) -> None:
    """Posts a reason if the people train against the advice."""
    if not verdict.startswith("Go"):
        transcript.refresh()
        text = f"The estimate says “{verdict}”. A run costs next to nothing on this machine, so let us see."
        workspace.say(ANA.id, TICKETS.id, text)


def _start(story: Story, workspace: Workspace, transcript: Transcript) -> None:
    _type(workspace, transcript, ANA.id, f"/finetune start {story.name} {story.plan}")
    transcript.until(lambda: _with_button(workspace, "approve_plan"), "the approval card", seconds=30)


def _approve(workspace: Workspace, transcript: Transcript) -> None:
    card = _with_button(workspace, "approve_plan")
    if card is None:
        raise WorkspaceError("the approval card has no Approve button any more")
    transcript.did(BEN.id, "clicks Approve")
    workspace.click(BEN.id, TICKETS.id, card.ts, "approve_plan")
    answered = lambda: workspace.view(BEN.id) or not _with_button(workspace, "approve_plan")  # noqa: E731
    form = transcript.until(answered, "an answer to Approve", seconds=15)
    if isinstance(form, Modal):  # its verdict is not go
        transcript.filled(BEN.id, form, {"reason": REASON})
        sent = workspace.submit_modal(BEN.id, {"reason": REASON})
        if not sent.accepted:
            raise WorkspaceError(f"the approval was not accepted: {'; '.join(sent.errors.values())}")


def _wait_for_result(
    story: Story, workspace: Workspace, transcript: Transcript, bot: RunningBot, timeline: Timeline
) -> PostedMessage:
    def look() -> PostedMessage | None:
        bot.check_alive()
        if is_trained(story.folder):
            timeline.mark("training")
        return _find(workspace, "Result of run", " failed: ", " was cancelled: ", "needs a decision")

    card = transcript.until(look, "the result", seconds=RUN_PATIENCE_S)
    if "Result of run" not in card.text:
        raise WorkspaceError(card.text)
    # The loss and, with labels, which of them were taken for which.
    plots = 2 if has_labels(story.folder) else 1

    def has_plots() -> bool:
        later = [each for each in workspace.messages(TICKETS.id) if float(each.ts) > float(card.ts)]
        return sum(len(each.files) for each in later) >= plots

    transcript.until(has_plots, "the plots in the thread", seconds=60)
    return card


def _try(story: Story, workspace: Workspace, transcript: Transcript) -> None:
    before = len(workspace.ephemerals(ANA.id))
    _type(workspace, transcript, ANA.id, f"/finetune try {story.name}-1 {ASKED}")
    answered = lambda: len(workspace.ephemerals(ANA.id)) >= before + 2 or None  # noqa: E731
    transcript.until(answered, "the model's answer", seconds=120)


def _put_to_work(story: Story, workspace: Workspace, transcript: Transcript, bot: RunningBot) -> str:
    """Puts in use what the cards advise to, or else the tuned model, which takes a reason and another person. Then a
    program calls it, by the lines on the card. Returns what the program prints."""

    def is_called() -> PostedMessage | None:
        bot.check_alive()
        return _find_block(workspace, CALLED)

    advice = _with_button(workspace, USE_TUNED, USE_CANDIDATE)
    if advice is not None:
        action = USE_TUNED
        if not _has_button(advice, USE_TUNED):
            action = USE_CANDIDATE
        transcript.did(ANA.id, "clicks Use it")
        workspace.click(ANA.id, TICKETS.id, advice.ts, action)
    else:
        _type(workspace, transcript, ANA.id, f"/finetune promote {story.name}-1 because={REASON}")
        find_request = lambda: _with_button(workspace, APPROVE_USE)  # noqa: E731
        request = transcript.until(find_request, "the request to deploy", seconds=15)
        transcript.did(BEN.id, "clicks Approve")
        workspace.click(BEN.id, TICKETS.id, request.ts, APPROVE_USE)
    card = transcript.until(is_called, "an address for programs", seconds=60)
    transcript.did(ANA.id, "runs the five lines of the card")
    answer = _run_program(card)
    workspace.say(ANA.id, TICKETS.id, f"My program asked `team/{story.name}`, and got: {answer}")
    return answer


def _run_program(card: PostedMessage) -> str:
    """Runs the lines of Python that the card shows, as somebody does who copies them. Returns what they print."""
    texts = [block.get("text", {}).get("text", "") for block in card.blocks]
    (program,) = [text.split("```")[1] for text in texts if "```" in text]
    lines = html.unescape(program).partition("\n\n")[0]
    done = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise WorkspaceError(f"the program of the card failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def _type(workspace: Workspace, transcript: Transcript, person: str, line: str) -> None:
    transcript.did(person, f"types {line}")
    workspace.command(person, TICKETS.id, line)


def _find(workspace: Workspace, *parts: str) -> PostedMessage | None:
    """Returns the newest message of the channel that contains one of these texts."""
    for message in reversed(workspace.messages(TICKETS.id)):
        if any(part in message.text for part in parts):
            return message
    return None


def _find_block(workspace: Workspace, part: str) -> PostedMessage | None:
    """Returns the newest message of the channel that shows this text in one of its blocks."""
    for message in reversed(workspace.messages(TICKETS.id)):
        if any(part in str(block) for block in message.blocks):
            return message
    return None


def _with_button(workspace: Workspace, *actions: str) -> PostedMessage | None:
    """Returns the newest message of the channel with a button of one of these actions."""
    for message in reversed(workspace.messages(TICKETS.id)):
        if _has_button(message, *actions):
            return message
    return None


def _has_button(message: PostedMessage, *actions: str) -> bool:
    for block in message.blocks:
        if any(element.get("action_id") in actions for element in block.get("elements", ())):
            return True
    return False


def _stay(workspace: Workspace, bot: RunningBot, console: Console) -> None:
    where = "There is no browser workspace here"
    if workspace.url:
        where = f"Open {workspace.url}"
    console.print(f"\n{where}; type /finetune as {ANA.real_name} or {BEN.real_name}. Ctrl-C ends it.")
    while True:
        bot.check_alive()
        time.sleep(1)
