"""Slash text → Command, or an Answer that says what was meant. Pure; knows neither Slack nor the store."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bot.decisions.amounts import Misread, parse_volume

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Answer:
    """Nothing to do but to say this."""

    text: str


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
    """`volume` is input tokens a month. None: not said."""

    dataset: str
    current: str | None
    volume: int | None
    target: str | None


@dataclass(frozen=True)
class Start:
    """`epochs` None: by rule. The other fields as in Estimate."""

    dataset: str
    current: str | None
    volume: int | None
    target: str | None
    epochs: int | None


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
class Results:
    run: int


@dataclass(frozen=True)
class Try:
    model: str
    text: str


Command = Help | Upload | Datasets | AskEstimate | Estimate | Start | Status | Runs | Cancel | Results | Try

USAGE: Mapping[str, str] = {
    "help": "/finetune help",
    "upload": "/finetune upload",
    "datasets": "/finetune datasets",
    "estimate": "/finetune estimate DATASET current=gpt-4o volume=10M target=local/smollm2-135m",
    "start": "/finetune start DATASET target=local/smollm2-135m [current=gpt-4o volume=10M epochs=2]",
    "status": "/finetune status [RUN]",
    "runs": "/finetune runs",
    "cancel": "/finetune cancel RUN",
    "results": "/finetune results RUN",
    "try": "/finetune try MODEL your text",
}
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "estimate": ("current", "volume", "target"),
    "start": ("current", "volume", "target", "epochs"),
}


def parse(text: str) -> Command | Answer:
    """What stands after `/finetune`."""
    word, rest = _first_word(text)
    word = word.lower()
    if not word:
        return Help()
    parser = _PARSERS.get(word)
    if parser is None:
        return Answer(
            f"I don't know `{_shown(word)}`.{_did_you_mean(word, USAGE)} `/finetune help` lists all."
        )
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


def _parse_estimate(rest: str) -> Command | Answer:
    if not rest:
        return AskEstimate()
    read = _read_options("estimate", rest)
    if isinstance(read, Answer):
        return read
    return Estimate(read.dataset, read.text("current"), read.volume, read.text("target"))


def _parse_start(rest: str) -> Command | Answer:
    read = _read_options("start", rest)
    if isinstance(read, Answer):
        return read
    epochs = read.text("epochs")
    if epochs is not None and not (re.fullmatch(r"[0-9]{1,3}", epochs) and 1 <= int(epochs) <= 50):
        return Answer(f"`epochs={_shown(epochs)}` should be a whole number from 1 to 50, like `epochs=2`.")
    return Start(
        read.dataset, read.text("current"), read.volume, read.text("target"), int(epochs) if epochs else None
    )


def _parse_status(rest: str) -> Command | Answer:
    if not rest:
        return Status(None)
    number = run_number(rest)
    return _needs_run("status", rest) if number is None else Status(number)


def _parse_cancel(rest: str) -> Command | Answer:
    number = run_number(rest)
    return _needs_run("cancel", rest) if number is None else Cancel(number)


def _parse_results(rest: str) -> Command | Answer:
    number = run_number(rest)
    return _needs_run("results", rest) if number is None else Results(number)


def _parse_try(rest: str) -> Command | Answer:
    model, text = _first_word(rest)
    if not text:
        return Answer(f"Which model, and what should it answer? Like this: `{USAGE['try']}`.")
    return Try(model, text)


def _alone(command: Command) -> Callable[[str], Command | Answer]:
    return lambda _rest: command


_PARSERS: Mapping[str, Callable[[str], Command | Answer]] = {
    "help": _alone(Help()),
    "upload": _alone(Upload()),
    "datasets": _alone(Datasets()),
    "runs": _alone(Runs()),
    "estimate": _parse_estimate,
    "start": _parse_start,
    "status": _parse_status,
    "cancel": _parse_cancel,
    "results": _parse_results,
    "try": _parse_try,
}


@dataclass(frozen=True)
class _Options:
    dataset: str
    values: Mapping[str, str]
    volume: int | None

    def text(self, key: str) -> str | None:
        return self.values.get(key)


def _read_options(command: str, rest: str) -> _Options | Answer:
    """`DATASET key=value …`, in any order."""
    words = re.sub(r"\s*=\s*", "=", rest).split()
    names = [word for word in words if "=" not in word]
    pairs = [word.split("=", 1) for word in words if "=" in word]
    values = dict(pairs)
    for key in values:
        if key not in OPTIONS[command]:
            return Answer(
                f"`{command}` has no `{_shown(key)}=`.{_did_you_mean(key, OPTIONS[command])}"
                f" Like this: `{USAGE[command]}`."
            )
        if not values[key]:
            return Answer(f"`{key}=` is empty. Like this: `{USAGE[command]}`.")
    if len(values) < len(pairs):
        twice = next(key for key, _ in pairs if [other for other, _ in pairs].count(key) > 1)
        return Answer(f"`{twice}=` stands there twice. Say it once: `{USAGE[command]}`.")
    if len(names) != 1:
        return Answer(_dataset_wanted(command, names))
    volume = parse_volume(values["volume"]) if "volume" in values else None
    if isinstance(volume, Misread):
        return Answer(_plain(volume.sentence))
    return _Options(names[0].lower(), values, volume)


def _dataset_wanted(command: str, names: list[str]) -> str:
    if not names:
        return f"Which dataset? `/finetune datasets` lists them. Like this: `{USAGE[command]}`."
    extra = " ".join(_shown(name) for name in names[1:])
    return (
        f"I read `{_shown(names[0])}` as the dataset and don't know what to do with `{extra}`."
        f" Like this: `{USAGE[command]}`."
    )


def _needs_run(command: str, rest: str) -> Answer:
    which = f"`{_shown(rest)}` is not the number of a run." if rest else "Which run?"
    return Answer(
        f"{which} `/finetune runs` lists them. Like this: `{USAGE[command]}`, with RUN a number like 7."
    )


def _did_you_mean(word: str, known: Mapping[str, str] | tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean `{near[0]}`?" if near else ""


def _shown(word: str) -> str:
    """A person's own word, short and without what Slack would read as markup."""
    return _plain(word)[:40]


def _plain(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable() and letter not in "`<>&")


def _first_word(text: str) -> tuple[str, str]:
    """The first word and the rest; a tab or a new line parts them as a space does."""
    word, rest = [*text.split(maxsplit=1), "", ""][:2]
    return word, rest.strip()
