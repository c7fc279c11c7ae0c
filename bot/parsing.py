"""Slash text → Command, or an Answer that says what was meant. Pure; knows neither Slack nor the store."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from bot.decisions.question import Question
from bot.decisions.tasks import TaskKind
from bot.options import (
    FIGURES,
    Answer,
    Options,
    did_you_mean,
    first_word,
    read_bar,
    read_figures,
    read_options,
    read_rungs,
    read_task,
    shown,
    split_prompt,
)
from trainers.measuring.values import RungName

__all__ = ["Answer", "Command", "parse"]
NOTHING_SAID = Question()
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Help:
    pass


@dataclass(frozen=True)
class Upload:
    pass


@dataclass(frozen=True)
class Datasets:
    pass


@dataclass(frozen=True)
class AskEstimate:
    """`/finetune estimate` alone: the modal asks the rest."""


@dataclass(frozen=True)
class Estimate:
    """`volume` is input tokens a month. None: not said. `figures`: what else a person knows, such as hours.

    `bar` and `task` None: as they are set for the dataset."""

    dataset: str
    current: str | None
    volume: int | None
    target: str | None
    figures: Question = NOTHING_SAID
    bar: float | None = None
    task: TaskKind | None = None

    @property
    def question(self) -> Question:
        return replace(self.figures, current=self.current, volume=self.volume, target=self.target)


@dataclass(frozen=True)
class Start:
    """`epochs` None: by rule. The other fields as in Estimate."""

    dataset: str
    current: str | None
    volume: int | None
    target: str | None
    epochs: int | None
    figures: Question = NOTHING_SAID

    @property
    def question(self) -> Question:
        said = replace(self.figures, current=self.current, volume=self.volume, target=self.target)
        return replace(said, epochs=self.epochs)


@dataclass(frozen=True)
class Status:
    run: int | None


@dataclass(frozen=True)
class Runs:
    pass


@dataclass(frozen=True)
class Cancel:
    run: int


@dataclass(frozen=True)
class CancelMeasurement:
    measurement: int


@dataclass(frozen=True)
class Results:
    run: int


@dataclass(frozen=True)
class ShowMeasurement:
    measurement: int


@dataclass(frozen=True)
class AskBaseline:
    """`/finetune baseline` alone: the form asks the rest."""


@dataclass(frozen=True)
class Baseline:
    """Empty `models`: our own trainer's. Empty `rungs`: all that fit. None: as it is set for the dataset."""

    dataset: str
    models: tuple[str, ...] = ()
    rungs: tuple[RungName, ...] = ()
    prompt: str | None = None
    bar: float | None = None
    task: TaskKind | None = None


@dataclass(frozen=True)
class Curve:
    """`target`: the model whose curve is asked for; None: the classical rung's, which is free."""

    dataset: str
    target: str | None


@dataclass(frozen=True)
class Prices:
    """Empty: of all models that are configured."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Knowledge:
    dataset: str


@dataclass(frozen=True)
class Try:
    model: str
    text: str


Command = (
    Help
    | Upload
    | Datasets
    | AskBaseline
    | Baseline
    | Curve
    | Knowledge
    | Prices
    | AskEstimate
    | Estimate
    | Start
    | Status
    | Runs
    | Cancel
    | CancelMeasurement
    | Results
    | ShowMeasurement
    | Try
)

USAGE: Mapping[str, str] = {
    "help": "/finetune help",
    "upload": "/finetune upload",
    "datasets": "/finetune datasets",
    "baseline": "/finetune baseline DATASET [models=openai/gpt-4o-mini,local/smollm2-135m bar=90%]",
    "curve": "/finetune curve DATASET",
    "knowledge": "/finetune knowledge DATASET",
    "prices": "/finetune prices [gpt-4o-mini]",
    "estimate": "/finetune estimate DATASET current=gpt-4o volume=10M target=local/smollm2-135m"
    " [hours=20 rate=90 labels=500 label_usd=0.5 wrong_usd=2 retrain=6 bar=90% task=style]",
    "start": "/finetune start DATASET target=local/smollm2-135m [current=gpt-4o volume=10M epochs=2]",
    "status": "/finetune status [RUN]",
    "runs": "/finetune runs",
    "cancel": "/finetune cancel RUN",
    "results": "/finetune results RUN",
    "try": "/finetune try MODEL your text",
}
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "baseline": ("models", "rungs", "bar", "task", "prompt"),
    "curve": ("target",),
    "estimate": ("current", "volume", "target", *FIGURES, "bar", "task"),
    "start": ("current", "volume", "target", "epochs", *FIGURES),
}


def parse(text: str) -> Command | Answer:
    """What stands after `/finetune`."""
    word, rest = first_word(text)
    word = word.lower()
    if not word:
        return Help()
    parser = _PARSERS.get(word)
    if parser is None:
        return Answer(f"I don't know `{shown(word)}`.{did_you_mean(word, USAGE)} `/finetune help` lists all.")
    return parser(rest)


def dataset_name(text: str) -> str | Answer:
    """A name people can type: lower case, from what they wrote."""
    name = re.sub(r"[^a-z0-9]+", "-", text.strip().lower()).strip("-")[:40]
    if NAME.fullmatch(name):
        return name
    return Answer("A dataset's name needs at least one letter or digit, like `tickets`.")


def run_number(text: str) -> int | None:
    """7, #7, run-7 and 'run 7' all mean run 7."""
    found = re.fullmatch(r"(?:run)?[\s#-]*(\d{1,9})", text.strip().lower())
    return int(found[1]) if found else None


def measurement_number(text: str) -> int | None:
    """m3, M3, #m3 and 'measurement 3' all mean measurement 3."""
    found = re.fullmatch(r"#?m(?:easurement)?[\s#-]*(\d{1,9})", text.strip().lower())
    return int(found[1]) if found else None


def _parse_estimate(rest: str) -> Command | Answer:
    if not rest:
        return AskEstimate()
    read = _options("estimate", rest)
    if isinstance(read, Answer):
        return read
    figures, bar, task = read_figures(read), read_bar(read.text("bar")), read_task(read.text("task"))
    if isinstance(figures, Answer):
        return figures
    if isinstance(bar, Answer):
        return bar
    if isinstance(task, Answer):
        return task
    said = read.text("current"), read.volume, read.text("target")
    return Estimate(read.dataset, *said, figures, bar, task)


def _parse_start(rest: str) -> Command | Answer:
    read = _options("start", rest)
    if isinstance(read, Answer):
        return read
    epochs = read.text("epochs")
    if epochs is not None and not (re.fullmatch(r"[0-9]{1,3}", epochs) and 1 <= int(epochs) <= 50):
        return Answer(f"`epochs={shown(epochs)}` should be a whole number from 1 to 50, like `epochs=2`.")
    figures = read_figures(read)
    if isinstance(figures, Answer):
        return figures
    said = read.text("current"), read.volume, read.text("target")
    return Start(read.dataset, *said, int(epochs) if epochs else None, figures)


def _parse_status(rest: str) -> Command | Answer:
    if not rest:
        return Status(None)
    number = run_number(rest)
    return _needs_run("status", rest) if number is None else Status(number)


def _parse_cancel(rest: str) -> Command | Answer:
    measurement = measurement_number(rest)
    if measurement is not None:
        return CancelMeasurement(measurement)
    number = run_number(rest)
    return _needs_run("cancel", rest) if number is None else Cancel(number)


def _parse_results(rest: str) -> Command | Answer:
    measurement = measurement_number(rest)
    if measurement is not None:
        return ShowMeasurement(measurement)
    number = run_number(rest)
    return _needs_run("results", rest) if number is None else Results(number)


def _parse_try(rest: str) -> Command | Answer:
    model, text = first_word(rest)
    if not text:
        return Answer(f"Which model, and what should it answer? Like this: `{USAGE['try']}`.")
    return Try(model, text)


def _parse_baseline(rest: str) -> Command | Answer:
    if not rest:
        return AskBaseline()
    before, prompt = split_prompt(rest)
    read = _options("baseline", before)
    if isinstance(read, Answer):
        return read
    if prompt == "":
        return Answer(f"`prompt=` is empty. Like this: `{USAGE['baseline']} prompt=Sort this message.`")
    bar = read_bar(read.text("bar"))
    rungs = read_rungs(read.text("rungs"))
    task = read_task(read.text("task"))
    for misread in (bar, rungs, task):
        if isinstance(misread, Answer):
            return misread
    models = tuple(dict.fromkeys(one for one in (read.text("models") or "").split(",") if one))
    # the three were no Answer, as the loop has seen, which a type checker does not
    return Baseline(read.dataset, models, rungs, prompt, bar, task)  # type: ignore[arg-type]


def _parse_curve(rest: str) -> Command | Answer:
    read = _options("curve", rest)
    return read if isinstance(read, Answer) else Curve(read.dataset, read.text("target"))


def _parse_knowledge(rest: str) -> Command | Answer:
    read = _options("knowledge", rest)
    return read if isinstance(read, Answer) else Knowledge(read.dataset)


def _parse_prices(rest: str) -> Command:
    return Prices(tuple(dict.fromkeys(re.split(r"[\s,]+", rest)))[:20] if rest else ())


def _alone(command: Command) -> Callable[[str], Command | Answer]:
    return lambda _rest: command


_PARSERS: Mapping[str, Callable[[str], Command | Answer]] = {
    "help": _alone(Help()),
    "upload": _alone(Upload()),
    "datasets": _alone(Datasets()),
    "runs": _alone(Runs()),
    "baseline": _parse_baseline,
    "curve": _parse_curve,
    "knowledge": _parse_knowledge,
    "prices": _parse_prices,
    "estimate": _parse_estimate,
    "start": _parse_start,
    "status": _parse_status,
    "cancel": _parse_cancel,
    "results": _parse_results,
    "try": _parse_try,
}


def _options(command: str, rest: str) -> Options | Answer:
    return read_options(command, rest, OPTIONS.get(command, ()), USAGE[command])


def _needs_run(command: str, rest: str) -> Answer:
    which = f"`{shown(rest)}` is not the number of a run." if rest else "Which run?"
    return Answer(
        f"{which} `/finetune runs` lists them. Like this: `{USAGE[command]}`, with RUN a number like 7."
    )
