"""The demo's first story: two people turn a file of tickets into a better model, on this machine, in a few minutes.

All parts are real: `finetune run` and its trainer as child processes, a Slack workspace on localhost, a model that
trains. This module says what people do, `steps` how they do it; the transcript prints what they see.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from demo import steps
from demo.runner import Ending, Setting, Timeline, run
from demo.steps import Scene
from demo.summary import has_free_models, summary

EXAMPLE = Path(__file__).parents[1] / "examples" / "support_tickets.csv"
TARGET = "local/smollm2-135m"
PLAN = f"current=gpt-4o volume=100M target={TARGET}"
PASSES = 2  # epochs over our own tickets; a third, as by the rule, takes half a minute on fast cores, two on others
QUICK = "candidates=classical,encoder"  # without a language model they take a few seconds
# Retrieval is left out: its prompts of 630 tokens took two thirds as long as the training.
WITHOUT_RETRIEVAL = "candidates=classical,encoder,zero,kshot"
TEXTS = "candidates=zero,kshot"  # fewer candidates, because long answers take longer
ASKED = "hi, the courier says delivered but there is no parcel here, order TP-55120"


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

    @property
    def setting(self) -> Setting:
        return Setting(self.folder, self.model, self.stay, self.in_terminal)


def play(story: Story) -> int:
    """Plays the story. Returns the exit code, 0 if it came to its end."""
    return run(story.setting, story.name, partial(_perform, story))


def _perform(story: Story, scene: Scene, timeline: Timeline) -> Ending:
    steps.upload(scene, story.file, text=story.text or "", label=story.label or "")
    timeline.mark("first card")
    if has_free_models(story.folder):
        steps.measure(scene, 1, QUICK)
        timeline.mark("free models")
        candidates = "" if story.data else WITHOUT_RETRIEVAL
        steps.measure(scene, 2, candidates)
    else:
        steps.measure(scene, 1, TEXTS)
    timeline.mark("measured")
    steps.say_why(scene, steps.estimate(scene, story.plan))
    steps.start(scene, story.plan)
    steps.approve(scene)
    result = steps.wait_for_result(scene, lambda: timeline.mark("training"))
    timeline.mark("result")
    verdict = steps.estimate(scene, story.plan)
    question = ""
    if story.data is None:
        question = ASKED
        steps.try_model(scene, question)
    deployed = steps.put_to_work(scene, question)
    refusal = steps.roll_back(scene, deployed.program)
    return summary(story.folder, result, verdict, deployed.answer, refusal).lines
