"""`DATASET key=value …` as people type it: how each command is written, which options it takes, and the
answer to what can't be read. Pure."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from decimal import Decimal
from typing import get_args

from bot.rules import estimate_inputs
from bot.rules.estimate_inputs import Figure, Question
from bot.rules.facts import TASK_KINDS, TaskKind, task_kind
from bot.rules.sweeps import format_sweep, parse_sweep
from bot.rules.units import Misread, parse_volume
from trainers import methods
from trainers.evaluation.results import RungName
from trainers.methods import MethodName, Spec
from trainers.types import Hyperparameter

ASKED_RUNGS: tuple[RungName, ...] = ("classical", "zero", "kshot", "retrieval")
OTHER_NAMES: Mapping[str, RungName] = {
    "zeroshot": "zero",
    "fewshot": "kshot",
    "few": "kshot",
    "svm": "classical",
}
OTHER_METHODS = {"sft": "supervised"}
MOST_PREDICTED = 10
LONGEST_NAME = 40
# "volume=10 million tokens a month", as parse_volume reads it in a form
_SPACED_VOLUME = re.compile(
    r"(\bvolume=[\d.,_]+)\s+(thousand|mio|million|bn|billion|trillion|[kmbt])(?=\s|$)"
    r"(?:\s+tokens?)?(?:\s*(?:/|\ba\b|\bper\b)\s*mo(?:nth)?)?(?=\s|$)",
    re.IGNORECASE,
)
# What only a person can know for an estimate: the option, the field of Question, how it is read.
FIGURES: Mapping[str, tuple[str, Figure]] = {
    "hours": ("people_hours", estimate_inputs.PEOPLE_HOURS),
    "rate": ("people_rate", estimate_inputs.PEOPLE_RATE),
    "labels": ("label_count", estimate_inputs.LABEL_COUNT),
    "label_usd": ("label_usd", estimate_inputs.LABEL_USD),
    "wrong_usd": ("wrong_usd", estimate_inputs.WRONG_USD),
    "prompt_tokens": ("prompt_tokens", estimate_inputs.PROMPT_TOKENS),
    "batch": ("batch_share", estimate_inputs.BATCH_SHARE),
    "runs": ("runs", estimate_inputs.RUNS),
    "retrain": ("retrain_months", estimate_inputs.RETRAIN_MONTHS),
    "monitoring_usd": ("monitoring_usd", estimate_inputs.MONITORING_USD),
    "hosting_hours": ("hosting_hours", estimate_inputs.HOSTING_HOURS),
    "serving_speed": ("serving_speed", estimate_inputs.SERVING_SPEED),
    "utilisation": ("utilisation", estimate_inputs.UTILISATION),
}


@dataclass(frozen=True)
class Answer:
    """Nothing to do but to say this. `about` is the option that it is about, where it is about one."""

    text: str
    about: str | None = None


@dataclass(frozen=True)
class Options:
    dataset: str
    values: Mapping[str, str]
    volume: int | None

    def text(self, key: str) -> str | None:
        return self.values.get(key)


def read_options(command: str, rest: str, keys: Sequence[str], usage: str) -> Options | Answer:
    """`DATASET key=value …`, in any order; a list is `key=a,b`."""
    joined = re.sub(r"(?<=\w):\s+(?=[\d.])", ":", re.sub(r"\s*([=,;])\s*", r"\1", rest))
    words = _SPACED_VOLUME.sub(r"\1\2", joined).split()
    names = [word for word in words if "=" not in word]
    pairs = [word.split("=", 1) for word in words if "=" in word]
    values = dict(pairs)
    for key in values:
        if key not in keys:
            return Answer(
                f"`{command}` has no `{shown(key)}=`.{did_you_mean(key, keys)} Like this: `{usage}`."
            )
        if not values[key]:
            return Answer(f"`{key}=` is empty. Like this: `{usage}`.")
    if len(values) < len(pairs):
        twice = next(key for key, _ in pairs if [other for other, _ in pairs].count(key) > 1)
        return Answer(f"`{twice}=` stands there twice. Say it once: `{usage}`.")
    if len(names) != 1:
        return Answer(_dataset_wanted(names, usage))
    volume = parse_volume(values["volume"]) if "volume" in values else None
    if isinstance(volume, Misread):
        return Answer(plain(volume.sentence), "volume")
    return Options(typed_name(names[0]), values, volume)


def read_figures(options: Options) -> Question | Answer:
    """All that was said beside model, volume and target."""
    said: dict[str, Decimal | int] = {}
    for key, (field, figure) in FIGURES.items():
        text = options.text(key)
        value = figure.read(text) if text is not None else None
        if isinstance(value, Misread):
            return Answer(f"`{key}=`: {plain(value.sentence)}", key)
        if value is not None:
            said[field] = int(value) if figure.is_whole else value
    sweep = parse_sweep(options.text("sweep") or "") if options.text("sweep") else ()
    if isinstance(sweep, Misread):
        return Answer(f"`sweep=`: {plain(sweep.sentence)}", "sweep")
    method = read_method(options.text("method"))
    if isinstance(method, Answer):
        return method
    chosen = read_hyperparameters(options, method)
    if isinstance(chosen, Answer):
        return chosen
    return replace(Question(method=method, hyperparameters=chosen, sweep=sweep), **said)  # type: ignore[arg-type]  # the fields' own kinds, as FIGURES says


def read_method(text: str | None) -> MethodName | Answer:
    word = (text or "supervised").lower()
    names: tuple[MethodName, ...] = get_args(MethodName)
    method = next((name for name in names if name == OTHER_METHODS.get(word, word)), None)
    if method:
        return method
    there = " and ".join(f"`{name}`" for name in names)
    return Answer(
        f"There is no method `{shown(word)}`.{did_you_mean(word, names)} There are {there}.", "method"
    )


def read_hyperparameters(
    options: Options, method: MethodName
) -> tuple[tuple[str, Hyperparameter], ...] | Answer:
    """Sorted by name, each within its limits (trainers/methods.py)."""
    chosen: dict[str, Hyperparameter] = {}
    for option, spec in methods.options().items():
        text = options.text(option)
        if text is None:
            continue
        if spec.name not in methods.specs(method):
            others = (name for name in methods.METHODS if spec.name in methods.specs(name))
            return Answer(f"`{option}=` belongs to `method={'`, `'.join(others)}`.", option)
        try:
            chosen[spec.name] = spec.parse(text)
        except ValueError:
            return Answer(_misread_hyperparameter(option, spec, text), option)
    return tuple(sorted(chosen.items()))


def _misread_hyperparameter(option: str, spec: Spec, text: str) -> str:
    near = did_you_mean(text.lower(), spec.choices) if spec.choices else ""
    return (
        f"`{option}={shown(text)}` should be {spec.wants} ({spec.declared.help}), like "
        f"`{option}={spec.declared.example}`.{near}"
    )


def typed(question: Question) -> str:
    """The options that `read_options` and `read_figures` read as this question again."""
    said = asdict(question)
    fields = {"current": "current", "volume": "volume", "target": "target", "patience": "patience"}
    fields |= {key: field for key, (field, _) in FIGURES.items()}
    words = [f"{key}={_plainly(said[field])}" for key, field in fields.items() if said[field] is not None]
    words += [f"method={question.method}"] if question.method != "supervised" else []
    chosen = question.chosen
    words += [f"{key}={chosen[spec.name]}" for key, spec in methods.options().items() if spec.name in chosen]
    return " ".join([*words, *([f"sweep={format_sweep(question.sweep)}"] if question.sweep else [])])


def _plainly(value: Decimal | int | str) -> str:
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)


def read_day(said: str | None) -> date | Answer | None:
    try:
        return date.fromisoformat(said) if said else None
    except ValueError:
        return Answer(f"`before={shown(said or '')}` should be a day, like `before=2026-01-31`.")


def read_bar(text: str | None) -> float | Answer | None:
    """A share: '90%', '90' and '0.9' are the same; '0.5%' is half a percent."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{0,2}(?:\.[0-9]{1,4})?)\s*(%?)", text)
    number = float(found[1] or 0) if found and found[1] != "" else 0.0
    share = number / 100 if found and (found[2] or number > 1) else number
    if 0 < share < 1:
        return round(share, 6)
    return Answer(
        f"`bar={shown(text)}` should be the share of right answers that is good enough, like `bar=90%`.",
        "bar",
    )


def read_predict(text: str | None) -> tuple[int, ...] | Answer:
    """Numbers of rows: '2000,5000'. In growing order, each once."""
    words = text.split(",") if text else []
    if len(words) > MOST_PREDICTED or not all(re.fullmatch(r"[1-9][0-9]{0,7}", word) for word in words):
        return Answer(
            f"`predict={shown(text or '')}` should be numbers of rows, {MOST_PREDICTED} at most, like "
            "`predict=2000,5000`.",
            "predict",
        )
    return tuple(sorted({int(word) for word in words}))


def split_prompt(rest: str) -> tuple[str, str | None]:
    """What stands before `prompt=`, and all that comes after it."""
    return _split_off("prompt", rest)


def split_reason(rest: str) -> tuple[str, str | None]:
    """What stands before `because=`, and all that comes after it."""
    return _split_off("because", rest)


def _split_off(key: str, rest: str) -> tuple[str, str | None]:
    parts = re.split(rf"(?:^|(?<=\s)){key}\s*=", rest, maxsplit=1, flags=re.IGNORECASE)
    return (parts[0], parts[1].strip()) if len(parts) == 2 else (rest, None)


def read_rungs(text: str | None) -> tuple[RungName, ...] | Answer:
    named = []
    for word in (text or "").lower().split(","):
        plain = re.sub(r"[-_]", "", word)
        name = next((one for one in ASKED_RUNGS if plain == one), OTHER_NAMES.get(plain))
        if name:
            named.append(name)
        elif word:
            there = ", ".join(f"`{one}`" for one in ASKED_RUNGS)
            return Answer(
                f"There is no rung `{shown(word)}`.{did_you_mean(word, ASKED_RUNGS)} There are {there}."
            )
    return tuple(one for one in ASKED_RUNGS if one in named)


def read_task(text: str | None) -> TaskKind | Answer | None:
    kind = task_kind(text) if text else None
    if text is None or kind:
        return kind
    there = ", ".join(f"`{one}`" for one in TASK_KINDS)
    return Answer(
        f"There is no task `{shown(text)}`.{did_you_mean(text, list(TASK_KINDS))} There are {there}.", "task"
    )


def _dataset_wanted(names: list[str], usage: str) -> str:
    if not names:
        return f"Which dataset? `/finetune datasets` lists them. Like this: `{usage}`."
    extra = " ".join(shown(name) for name in names[1:])
    return (
        f"I read `{shown(names[0])}` as the dataset and don't know what to do with `{extra}`."
        f" Like this: `{usage}`."
    )


def did_you_mean(word: str, known: Mapping[str, str] | Sequence[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean `{near[0]}`?" if near else ""


def shown(word: str) -> str:
    """A person's own word, short and without what Slack would read as markup."""
    return plain(word)[:40]


def plain(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable() and letter not in "`<>&")


def first_word(text: str) -> tuple[str, str]:
    """The first word and the rest; a tab or a new line parts them as a space does."""
    word, rest = [*text.split(maxsplit=1), "", ""][:2]
    return word, rest.strip()


def dataset_name(text: str) -> str | Answer:
    """A name people can type, out of what they wrote: letters and digits of any script, in lower case.

    Different texts may give the same name: `is_dataset_name` tells whether a text is the name itself."""
    folded = unicodedata.normalize("NFKC", text.strip().lower())
    name = re.sub("-+", "-", "".join(letter if _is_in_names(letter) else "-" for letter in folded)).strip("-")
    if not any(letter.isalnum() for letter in name):
        return Answer("A dataset's name needs at least one letter or digit, like `tickets`.")
    if len(name) > LONGEST_NAME:
        return Answer(
            f"A dataset's name has {LONGEST_NAME} letters at most, and this one would have {len(name)}: type a "
            "shorter one into “Name”."
        )
    return name


def typed_name(word: str) -> str:
    """A dataset's name as it is looked for: case doesn't count, nor how a letter is encoded."""
    return unicodedata.normalize("NFKC", word.lower())


def is_dataset_name(text: str) -> bool:
    """Whether this is a name as it stands. Case doesn't count, nor how accents are encoded (macOS takes file names
    apart)."""
    return dataset_name(text) == unicodedata.normalize("NFC", text.strip().lower())


def _is_in_names(letter: str) -> bool:
    """Letters, digits, and the marks that many scripts write vowels with."""
    return letter.isalnum() or unicodedata.category(letter).startswith("M")


def run_number(text: str) -> int | None:
    """7, #7, run-7 and 'run 7' all mean run 7."""
    found = re.fullmatch(r"(?:run)?[\s#-]*(\d{1,9})", text.strip().lower())
    return int(found[1]) if found else None


def measurement_number(text: str) -> int | None:
    """m3, M3, #m3 and 'measurement 3' all mean measurement 3."""
    found = re.fullmatch(r"#?m(?:easurement)?[\s#-]*(\d{1,9})", text.strip().lower())
    return int(found[1]) if found else None


# How each command is typed, and which options it takes: for the help and for answers to what can't be
# read.


USAGE: Mapping[str, str] = {
    "help": "/finetune help",
    "upload": "/finetune upload",
    "datasets": "/finetune datasets",
    "baseline": "/finetune baseline DATASET [models=local/smollm2-135m bar=90% judge=openai/gpt-4o-mini]",
    "curve": "/finetune curve DATASET [target=local/smollm2-135m predict=2000,5000 label_usd=0.5]",
    "knowledge": "/finetune knowledge DATASET",
    "prices": "/finetune prices [gpt-4o-mini]",
    "estimate": "/finetune estimate DATASET current=gpt-4o volume=10M target=local/smollm2-135m"
    " [hours=20 rate=90 labels=500 label_usd=0.5 wrong_usd=2 retrain=6 bar=90% task=style quantization=nf4"
    " sweep=lora_r:8,16]",
    "start": "/finetune start DATASET target=local/smollm2-135m [current=gpt-4o volume=10M epochs=2"
    " engine=unsloth quantization=nf4 sweep=lora_r:8,16;learning_rate:5e-4,1e-3]",
    "status": "/finetune status [RUN]",
    "runs": "/finetune runs",
    "pause": "/finetune pause RUN",
    "resume": "/finetune resume RUN",
    "cancel": "/finetune cancel RUN",
    "results": "/finetune results RUN",
    "budget": "/finetune budget",
    "freeze": "/finetune freeze [reason]",
    "unfreeze": "/finetune unfreeze",
    "audit": "/finetune audit RUN",
    "models": "/finetune models",
    "try": "/finetune try MODEL your text",
    "promote": "/finetune promote MODEL [because=why it shall be used all the same]",
    "rollback": "/finetune rollback DATASET [because=why]",
    "delete": "/finetune delete DATASET [before=2026-01-31]",
}
TRAINED_BY = (*methods.options(), "method", "sweep")
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "baseline": ("models", "rungs", "judge", "bar", "task", "prompt"),
    "delete": ("before",),
    "curve": ("target", "predict", "label_usd"),
    "estimate": ("current", "volume", "target", *TRAINED_BY, *FIGURES, "bar", "task"),
    "start": (
        "current",
        "volume",
        "target",
        "patience",
        *TRAINED_BY,
        *FIGURES,
    ),
}
