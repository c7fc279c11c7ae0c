"""The demo's second story: threads of a rota channel become the team's own JSON. Two people train a model, put it to
work, and find out how it reads the threads of people whose phrasing it has never seen.

`steps` says how they do each step, `shift_swaps` where the threads are from. Nothing that is printed is written here:
the story ends as the measurements do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bot.cards.common.candidates import measure_title, quality, table_name, whole_rows_text
from bot.cards.common.words import capitalize, percent
from demo import steps
from demo.people import ANA, BEN, TICKETS
from demo.runner import Ending, Setting, Timeline, run
from demo.shift_swaps import OTHER_AUTHORS, TRAINING
from demo.steps import Scene
from demo.summary import Summary, candidate_lines, line, summary
from demo.workspace import WorkspaceError
from trainers.evaluation.results import Comparison, MeasuredCandidate

DATASET = "shifts"
PASSES = 3  # a third epoch gained seven points on threads like these
QUICK = "task=extraction candidates=classical,encoder"  # without a language model they take a few seconds
# gpt-5.2 has no end date in the lists, and what the people's time costs is counted.
QUESTION = "current=gpt-5.2 volume=1M requests hours=4 target=local/smollm2-135m"
PROGRAM_ASKS = """Noor: can anyone do sunday 2pm for me? my cousin is in town
Emil: not me, ask Wanda
Wanda: sure, put me down"""
DOOR = "door"
KEY_VARIABLE = "FINETUNE_CALL_KEY"
OTHERS = "rows by other authors, whose phrasing is in no training row"
STRAW_MAN = (
    "a prompted model of 135M parameters says nothing about a hosted one: "
    f"/finetune baseline {DATASET} models=openai/gpt-6-luna measures that"
)


@dataclass(frozen=True)
class Extraction:
    """What to play: the rows to train on, and those of other authors. `calibrate_s` are the seconds in which the
    machine's speed is measured."""

    setting: Setting
    epochs: int | None = None
    calibrate_s: int = 28
    file: Path = TRAINING
    others: Path = OTHER_AUTHORS

    @property
    def plan(self) -> str:
        return f"{QUESTION} epochs={self.epochs or PASSES}"


def play(story: Extraction) -> int:
    """Plays the story. Returns the exit code, 0 if it came to its end."""
    return run(story.setting, DATASET, partial(_perform, story))


def _perform(story: Extraction, scene: Scene, timeline: Timeline) -> Ending:
    scene.transcript.printed(steps.run_finetune(scene, ["calibrate", "--seconds", str(story.calibrate_s)]))
    timeline.mark("calibrated")
    steps.upload(scene, story.file)
    timeline.mark("first card")
    steps.measure(scene, 1, QUICK)
    timeline.mark("free models")
    steps.measure(scene, 2, "")
    timeline.mark("measured")
    steps.say_why(scene, steps.estimate(scene, story.plan))
    steps.start(scene, story.plan)
    steps.approve(scene)
    result = steps.wait_for_result(scene, lambda: timeline.mark("training"))
    timeline.mark("result")
    verdict = steps.estimate(scene, story.plan)
    deployed = steps.put_to_work(scene, PROGRAM_ASKS)
    timeline.mark("in use")
    others = _measure_others(story, scene)
    timeline.mark("other authors")
    own = summary(scene.folder, result, verdict, deployed.answer, "")
    reason = _conclude(scene, own.tuned, others)
    refusal = steps.roll_back(scene, deployed.program, reason)
    return partial(last_lines, replace(own, refusal=refusal), others)


def _measure_others(story: Extraction, scene: Scene) -> Comparison:
    """Measures what programs get, and what is free, on the rows of other authors, by the terminal's command."""
    text = "Before other teams call it: how does it read people whose phrasing it has never seen?"
    scene.workspace.say(BEN.id, TICKETS.id, text)
    arguments = ["baseline", str(story.file), "--holdout", str(story.others)]
    arguments += ["--candidates", "classical,encoder,zero", "--model", f"{DOOR}/team/{DATASET}", "--json"]
    config = scene.folder / "door.toml"
    config.write_text(_door_settings(scene), encoding="utf-8")
    key = scene.bot.call_key.read_text(encoding="utf-8").strip()
    printed = steps.run_finetune(scene, arguments, {"FINETUNE_CONFIG": str(config), KEY_VARIABLE: key})
    measured = json.loads(printed)
    return Comparison.from_json(json.dumps(measured["ladder"]))


def _door_settings(scene: Scene) -> str:
    """The address that programs call, as a provider: docs/deciding.md#other-authors."""
    return f"""data = "terminal"

[providers.{DOOR}]
base_url = "{scene.bot.call_url}"
key_env = "{KEY_VARIABLE}"
abilities = ["chat"]
callers = 32
stays_here = true

[providers.{DOOR}.models."team/{DATASET}"]
usd_per_hour = "0"
"""


def _conclude(scene: Scene, own: MeasuredCandidate, others: Comparison) -> str:
    """Says in the channel what the other rows show. Returns why to take the model out of use now."""
    tuned = in_use(others)
    scene.transcript.refresh()
    right = f"{quality(tuned)} of fields, {whole_rows_text(tuned)}"
    text = f"On {others.n} {OTHERS}: {right}. {capitalize(lesson(own, tuned))}."
    scene.workspace.say(ANA.id, TICKETS.id, text)
    if tuned.standing == "meets":
        return "to show how to go back"
    return "until rows by more authors are in"


def last_lines(own: Summary, others: Comparison, timeline: Mapping[str, float]) -> Sequence[str]:
    """Returns the lines to print: what was measured on the team's own rows, then on those of other authors."""
    tuned = in_use(others)
    return [
        *own.lines(timeline),
        "",
        f"{measure_title(others)} on {others.n} {OTHERS}:",
        *candidate_lines(
            others.candidates, others.bar, {table_name(tuned.identity): "tuned, as programs get it"}
        ),
        line("tuned", f"{whole_rows_text(own.tuned)} on the team's, {_whole_rows(tuned)} on these"),
        line("so", lesson(own.tuned, tuned)),
        line("not shown", STRAW_MAN),
    ]


def in_use(others: Comparison) -> MeasuredCandidate:
    """Returns what programs got on the other rows."""
    for candidate in others.candidates:
        if candidate.model and candidate.model.startswith(f"{DOOR}/"):
            return candidate
    raise WorkspaceError("what is in use could not be measured on the rows of other authors")


def lesson(own: MeasuredCandidate, other: MeasuredCandidate) -> str:
    """Says what the two scores of the model in use mean together, by the bar that both were held against."""
    if own.standing != "meets":
        return "not shown to be good enough, not even on rows by the team's own authors"
    match other.standing:
        case "meets":
            return "good on the team's phrasing, and on other people's: other teams may call it"
        case "misses":
            return "good on the team's phrasing, not yet on other people's: collect rows by more authors"
        case "undecided":
            return (
                "good on the team's phrasing; whether on other people's, these rows can't tell: collect rows by more "
                "authors"
            )


def _whole_rows(candidate: MeasuredCandidate) -> str:
    n_right = sum(score == 1 for score in candidate.scores)
    return percent(n_right / candidate.n)
