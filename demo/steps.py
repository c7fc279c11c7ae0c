"""What the two people of a story do in the channel: each step acts as a person would, and waits for what they see.

A story is a sequence of these steps.
"""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.drawing import headline
from demo.people import ANA, BEN, TICKETS
from demo.service import RunningBot
from demo.summary import has_labels, is_trained
from demo.transcript import Transcript, names_in
from demo.workspace import Modal, PostedMessage, Workspace, WorkspaceError

USE_CANDIDATE = "use_candidate"
USE_TUNED = "put_to_work"
APPROVE_USE = "approve_promotion"
CALLED = "now get it, without a change"
REASON = "a demo on this machine, nothing depends on it"
MEASUREMENT_PATIENCE_S = 3 * 3600.0
RUN_PATIENCE_S = 3 * 3600.0
REFUSAL_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Scene:
    """Where the people act. `folder` is the demo's, `dataset` the name of the dataset that the story is about."""

    workspace: Workspace
    transcript: Transcript
    bot: RunningBot
    folder: Path
    dataset: str


@dataclass(frozen=True)
class Deployed:
    """What is in use, as a program meets it: `program` are the lines of Python on the card, `answer` what they
    print."""

    program: str
    answer: str


def type_line(scene: Scene, person: str, line: str) -> None:
    scene.transcript.did(person, f"types {line}")
    scene.workspace.command(person, TICKETS.id, line)


def upload(scene: Scene, file: Path, *, text: str = "", label: str = "") -> None:
    """Uploads a file by the form. `text` and `label` are columns of a table, empty to have them found."""
    type_line(scene, ANA.id, "/finetune upload")
    modal = scene.transcript.until(lambda: scene.workspace.view(ANA.id), "the upload form", seconds=15)
    answers = {
        "file": scene.workspace.upload(ANA.id, file),
        "name": scene.dataset,
        "text": text,
        "label": label,
        "channel": TICKETS.id,
    }
    scene.transcript.filled(ANA.id, modal, {**answers, "file": file.name})
    sent = scene.workspace.submit_modal(ANA.id, answers)
    if not sent.accepted:
        raise WorkspaceError(f"the form was not accepted: {'; '.join(sent.errors.values())}")
    is_checked = lambda: find(scene, " is ready", "can't be used")  # noqa: E731
    card = scene.transcript.until(is_checked, "the check", seconds=300)
    if "can't be used" in card.text:
        raise WorkspaceError(f"the file can't be trained on. {card.text}")


def measure(scene: Scene, number: int, candidates: str) -> None:
    """Runs measurement `number` of the alternatives to tuning. It is free here, so it starts at once."""
    type_line(scene, ANA.id, f"/finetune baseline {scene.dataset} {candidates}".rstrip())
    endings = [f"m{number} {end}" for end in ("is done", "failed", "was cancelled")]

    def look() -> PostedMessage | None:
        scene.bot.check_alive()
        return find(scene, *endings)

    message = scene.transcript.until(look, "the measurement", seconds=MEASUREMENT_PATIENCE_S)
    if "is done" not in message.text:
        raise WorkspaceError(message.text)


def estimate(scene: Scene, plan: str) -> str:
    """Asks for an estimate and returns its headline."""
    before = len(scene.workspace.ephemerals(ANA.id))
    type_line(scene, ANA.id, f"/finetune estimate {scene.dataset} {plan}")
    answered = lambda: scene.workspace.ephemerals(ANA.id)[before:]  # noqa: E731
    messages = scene.transcript.until(answered, "the estimate", seconds=15)
    return headline(messages[-1], names_in(scene.workspace))


def start(scene: Scene, plan: str) -> None:
    type_line(scene, ANA.id, f"/finetune start {scene.dataset} {plan}")
    find_card = lambda: with_button(scene, "approve_plan")  # noqa: E731
    scene.transcript.until(find_card, "the approval card", seconds=30)


def approve(scene: Scene) -> None:
    """Approves the plan, with a reason if its verdict is not go."""
    card = with_button(scene, "approve_plan")
    if card is None:
        raise WorkspaceError("the approval card has no Approve button any more")
    scene.transcript.did(BEN.id, "clicks Approve")
    scene.workspace.click(BEN.id, TICKETS.id, card.ts, "approve_plan")
    answered: Callable[[], Modal | bool] = lambda: (  # noqa: E731
        scene.workspace.view(BEN.id) or not with_button(scene, "approve_plan")
    )
    form = scene.transcript.until(answered, "an answer to Approve", seconds=15)
    if isinstance(form, Modal):
        scene.transcript.filled(BEN.id, form, {"reason": REASON})
        sent = scene.workspace.submit_modal(BEN.id, {"reason": REASON})
        if not sent.accepted:
            raise WorkspaceError(f"the approval was not accepted: {'; '.join(sent.errors.values())}")


def wait_for_result(scene: Scene, when_trained: Callable[[], None]) -> PostedMessage:
    """Waits for the run's result and its plots, and returns its card. `when_trained` is called once a model exists,
    perhaps more than once."""

    def look() -> PostedMessage | None:
        scene.bot.check_alive()
        if is_trained(scene.folder):
            when_trained()
        return find(scene, "Result of run", " failed: ", " was cancelled: ", "needs a decision")

    card = scene.transcript.until(look, "the result", seconds=RUN_PATIENCE_S)
    if "Result of run" not in card.text:
        raise WorkspaceError(card.text)
    # The loss and, with labels, which of them were taken for which.
    plots = 2 if has_labels(scene.folder) else 1

    def has_plots() -> bool:
        later = [each for each in scene.workspace.messages(TICKETS.id) if float(each.ts) > float(card.ts)]
        return sum(len(each.files) for each in later) >= plots

    scene.transcript.until(has_plots, "the plots in the thread", seconds=60)
    return card


def try_model(scene: Scene, text: str) -> None:
    """Asks the first tuned model something."""
    before = len(scene.workspace.ephemerals(ANA.id))
    type_line(scene, ANA.id, f"/finetune try {scene.dataset}-1 {text}")
    answered = lambda: len(scene.workspace.ephemerals(ANA.id)) >= before + 2 or None  # noqa: E731
    scene.transcript.until(answered, "the model's answer", seconds=120)


def say_why(scene: Scene, verdict: str) -> None:
    """Posts a reason if the people train against the advice."""
    if not verdict.startswith("Go"):
        scene.transcript.refresh()
        text = f"The estimate says “{verdict}”. A run costs next to nothing on this machine, so let us see."
        scene.workspace.say(ANA.id, TICKETS.id, text)


def put_to_work(scene: Scene, question: str = "") -> Deployed:
    """Puts in use what the cards advise to, or else the tuned model, which takes a reason and another person. Then a
    program calls it, by the lines on the card, with their question or another."""

    def is_called() -> PostedMessage | None:
        scene.bot.check_alive()
        return find_block(scene, CALLED)

    advice = with_button(scene, USE_TUNED, USE_CANDIDATE)
    if advice is not None:
        action = USE_TUNED
        if not has_button(advice, USE_TUNED):
            action = USE_CANDIDATE
        scene.transcript.did(ANA.id, "clicks Use it")
        scene.workspace.click(ANA.id, TICKETS.id, advice.ts, action)
    else:
        type_line(scene, ANA.id, f"/finetune promote {scene.dataset}-1 because={REASON}")
        find_request = lambda: with_button(scene, APPROVE_USE)  # noqa: E731
        request = scene.transcript.until(find_request, "the request to deploy", seconds=15)
        scene.transcript.did(BEN.id, "clicks Approve")
        scene.workspace.click(BEN.id, TICKETS.id, request.ts, APPROVE_USE)
    card = scene.transcript.until(is_called, "an address for programs", seconds=60)
    program = program_of(card, question)
    scene.transcript.did(ANA.id, "runs the five lines of the card")
    done = run_program(program)
    if done.returncode:
        raise WorkspaceError(f"the program of the card failed: {done.stderr.strip()[-500:]}")
    answer = done.stdout.strip()
    scene.workspace.say(ANA.id, TICKETS.id, f"My program asked `team/{scene.dataset}`, and got: {answer}")
    return Deployed(program, answer)


def roll_back(scene: Scene, program: str, reason: str = "") -> str:
    """Goes back to what was in use before, which is nothing in a demo: the program that was answered is refused.
    Returns the last line that the program prints."""
    before = len(scene.workspace.messages(TICKETS.id))
    because = f" because={reason}" if reason else ""
    type_line(scene, ANA.id, f"/finetune rollback {scene.dataset}{because}")
    answered = lambda: scene.workspace.messages(TICKETS.id)[before:]  # noqa: E731
    scene.transcript.until(answered, "the answer to the rollback", seconds=15)

    deadline = time.monotonic() + REFUSAL_PATIENCE_S
    scene.transcript.did(ANA.id, "runs the same five lines again")
    while not (done := run_program(program)).returncode:
        if time.monotonic() > deadline:
            raise WorkspaceError("programs still get an answer from what was taken out of use")
    refusal = done.stderr.strip().splitlines()[-1]
    scene.workspace.say(ANA.id, TICKETS.id, f"Now my program gets: {refusal}")
    scene.transcript.refresh()
    return refusal


def run_finetune(scene: Scene, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Runs `finetune` in a terminal on the bot's machine and returns what it prints."""
    scene.transcript.did(ANA.id, f"runs finetune {shlex.join(arguments)}")
    done = subprocess.run(
        [sys.executable, "-m", "bot", *arguments],
        env={**os.environ, "FINETUNE_CONFIG": str(scene.bot.config), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=MEASUREMENT_PATIENCE_S,
        check=False,
    )
    if done.returncode:
        raise WorkspaceError(f"finetune {arguments[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def program_of(card: PostedMessage, question: str = "") -> str:
    """Returns the lines of Python that the card shows, as somebody copies them, who may write a question of their
    own."""
    texts = [block.get("text", {}).get("text", "") for block in card.blocks]
    (lines,) = [text.split("```")[1] for text in texts if "```" in text]
    program = html.unescape(lines).partition("\n\n")[0]
    if not question:
        return program
    content = f'"content": {json.dumps(question)}'
    return re.sub(r'"content": "[^"]*"', lambda _: content, program)


def run_program(lines: str) -> subprocess.CompletedProcess[str]:
    """Runs lines of Python as a program of the team's own. It has no traceback, so that a refusal is one line."""
    quiet = f"import sys; sys.tracebacklimit = 0\n{lines}"
    return subprocess.run(
        [sys.executable, "-c", quiet], capture_output=True, text=True, timeout=120, check=False
    )


def find(scene: Scene, *parts: str) -> PostedMessage | None:
    """Returns the newest message of the channel that contains one of these texts."""
    for message in reversed(scene.workspace.messages(TICKETS.id)):
        if any(part in message.text for part in parts):
            return message
    return None


def find_block(scene: Scene, part: str) -> PostedMessage | None:
    """Returns the newest message of the channel that shows this text in one of its blocks."""
    for message in reversed(scene.workspace.messages(TICKETS.id)):
        if any(part in str(block) for block in message.blocks):
            return message
    return None


def with_button(scene: Scene, *actions: str) -> PostedMessage | None:
    """Returns the newest message of the channel with a button of one of these actions."""
    for message in reversed(scene.workspace.messages(TICKETS.id)):
        if has_button(message, *actions):
            return message
    return None


def has_button(message: PostedMessage, *actions: str) -> bool:
    for block in message.blocks:
        if any(element.get("action_id") in actions for element in block.get("elements", ())):
            return True
    return False
