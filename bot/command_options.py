"""The types of the commands' options and arguments, for click: each turns what a person typed into a value, or explains
what it expects.

Slack's commands, the forms and the terminal share these objects. Pure: no I/O."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from bot.option_groups import OptionGroup, grouped_option
from bot.rules import estimate_inputs as inputs
from bot.rules.estimate_inputs import Figure, Question
from bot.rules.plans import parse_sweep
from bot.rules.units import Misread, parse_share, parse_volume
from bot.values.upload_fields import normalize_name
from trainers import methods
from trainers.methods import MethodName, Spec
from trainers.types import Hyperparameter

if TYPE_CHECKING:  # the terminal declares its options with these types, and should start quickly
    from bot.rules.facts import TaskKind
    from trainers.evaluation.results import CandidateKind

ASKED_KINDS: tuple[CandidateKind, ...] = ("classical", "encoder", "zero", "kshot", "retrieval")
NAMED_KINDS: tuple[CandidateKind, ...] = ("classical", "encoder", "zero", "optimised", "kshot", "retrieval")
KIND_ALIASES: Mapping[str, CandidateKind] = {
    "zeroshot": "zero",
    "optimized": "optimised",
    "fewshot": "kshot",
    "few": "kshot",
    "svm": "classical",
    "embeddings": "encoder",
}
OTHER_METHODS = {"sft": "supervised", "all_weights": "full"}
METHOD_HELP = [f"{name} from {methods.METHODS[name].examples}" for name in methods.TYPED_METHODS]
MOST_SECONDS = 600  # a provider has no longer for an answer
NAME_NOW = {"rungs": "candidates"}  # of options, by their name in 0.1.0
MOST_PREDICTED = 10
MOST_NAMES = 20
MOST_SHOTS = 50
LONGEST_REASON = 500
_Handler = TypeVar("_Handler", bound=Callable[..., Any])
_Read = Callable[[str], object]


class TextType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks than we ask for
    """Reads text with `read`, which returns the value or a `Misread`; the caller adds the option's name to its
    sentence.

    `missing` is the question to a person who left the argument out. `hint` follows the command's usage when the value
    can't be read. With `takes_rest` the value is the rest of the line, including spaces and `=`."""

    def __init__(
        self, name: str, read: _Read = str, *, missing: str = "", hint: str = "", takes_rest: bool = False
    ) -> None:
        self.name = name
        self.missing = missing
        self.hint = hint
        self.takes_rest = takes_rest
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value  # click also converts defaults, which are already values
        result = self._read(value)
        if isinstance(result, Misread) and result.readings:
            raise AmbiguousValueError(result, value, param, ctx)
        if isinstance(result, Misread):
            self.fail(result.sentence, param, ctx)
        return result


class AmbiguousValueError(click.BadParameter):
    """A value that has several meanings. `readings` are unambiguous texts for `value`."""

    def __init__(
        self, misread: Misread, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> None:
        super().__init__(misread.sentence, ctx, param)
        self.value = value
        self.readings = misread.readings


class HyperparameterType(TextType):
    """Reads a hyperparameter within its limits (trainers/methods.py). Refuses one that the chosen method doesn't
    have."""

    def __init__(self, spec: Spec) -> None:
        name = "number" if spec.is_number else "text"
        if spec.choices:
            name = "|".join(spec.choices)
        super().__init__(name)
        self._spec = spec

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Hyperparameter:
        method: MethodName = "supervised"
        if ctx:
            method = ctx.params["method"]  # already read: the option is eager
        name = self._spec.name
        allowed = methods.typed_specs(method)
        if name not in allowed:
            others = [other for other in methods.TYPED_METHODS if name in methods.typed_specs(other)]
            self.fail(f"it belongs to method={', '.join(others)}.", param, ctx)
        spec = allowed[name]  # limits may differ between methods
        try:
            return spec.parse(str(value))
        except ValueError:
            near = did_you_mean(str(value).lower(), spec.choices)
            should = f"should be {spec.wants} ({spec.declared.help}), like {spec.declared.example}."
            self.fail(f"“{shown(str(value))}” {should}{near}", param, ctx)


BETWEEN_SUBJECTS = ("and", "with", "vs", "to")


@dataclass(frozen=True)
class Subject:
    """What a command is about: run 7, or measurement m3."""

    number: int
    is_measurement: bool = False

    @property
    def name(self) -> str:
        """'run 7' or 'm3', as people type it."""
        if self.is_measurement:
            return f"m{self.number}"
        return f"run {self.number}"


def read_subject(text: str) -> Subject | Misread:
    """Reads 7, #7, run-7, run=7 and 'run 7' as run 7; m3, M3, #m3 and 'measurement 3' as measurement 3."""
    match = re.fullmatch(r"#?m(?:easurement)?[\s#=-]*(\d{1,9})", text.strip().lower())
    if match:
        return Subject(int(match[1]), is_measurement=True)
    run = read_run(text)
    if isinstance(run, Misread):
        return Misread(
            f"`{shown(text)}` is neither a run, like 7, nor a measurement, like m7. `/finetune results` lists both."
        )
    return Subject(run)


def read_subjects(text: str) -> tuple[Subject, ...] | Misread:
    """Reads several runs and measurements: '3 5', 'run 3, m7', '3 and 5'."""
    joined = re.sub(r"\b(run|measurement)s?[\s#=-]+(?=\d)", r"\1", text.lower())
    words = [word for word in re.split(r"[\s,;]+", joined) if word and word not in BETWEEN_SUBJECTS]
    subjects = []
    for word in words:
        subject = read_subject(word)
        if isinstance(subject, Misread):
            return subject
        subjects.append(subject)
    return tuple(subjects)


def read_run(text: str) -> int | Misread:
    match = re.fullmatch(r"(?:run)?[\s#=-]*(\d{1,9})", text.strip().lower())
    if match is None:
        return Misread(f"`{shown(text)}` is not a run number. `/finetune runs` lists the runs.")
    return int(match[1])


def read_count(text: str) -> int | Misread:
    from bot.values.row_labels import MOST_ROWS

    if re.fullmatch(r"\d{1,4}", text) and 1 <= int(text) <= MOST_ROWS:
        return int(text)
    return Misread(f"“{shown(text)}” should be a number of rows, from 1 to {MOST_ROWS}.")


def read_seconds(text: str) -> int | Misread:
    match = re.fullmatch(r"(\d{1,3}) ?s?", text.strip().lower())
    if match is not None and 1 <= int(match[1]) <= MOST_SECONDS:
        return int(match[1])
    return Misread(f"“{shown(text)}” should be a number of seconds, from 1 to {MOST_SECONDS}.")


def read_day(text: str) -> date | Misread:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return Misread(f"“{shown(text)}” should be a day, like 2026-01-31.")


def read_bar(text: str) -> float | Misread:
    return read_part(text, "the share of right answers that is good enough, like 90%")


def read_part(text: str, meant: str) -> float | Misread:
    """Reads a share in (0, 1): '90%', '90' and '0.9' are all 0.9; '0.5%' is 0.005."""
    share = parse_share(text)
    if share is not None and 0 < share < 1:
        return share
    return Misread(f"“{shown(text)}” should be {meant}.")


def read_sample(text: str) -> float | Misread:
    """Reads a share in [0, 1]: '5%', '5' and '0.05' are all 0.05."""
    share = parse_share(text)
    if share is not None and share <= 1:
        return share
    return Misread(f"“{shown(text)}” should be the share of the calls to sample, like 5%.")


def read_predict(text: str) -> tuple[int, ...] | Misread:
    """Reads numbers of rows, like '2000,5000'. Returns them sorted, without repetitions."""
    words = text.split(",")
    are_numbers = all(re.fullmatch(r"[1-9][0-9]{0,7}", word) for word in words)
    if len(words) > MOST_PREDICTED or not are_numbers:
        return Misread(
            f"“{shown(text)}” should be numbers of rows, {MOST_PREDICTED} at most, like 2000,5000."
        )
    return tuple(sorted({int(word) for word in words}))


def read_kinds(text: str) -> tuple[CandidateKind, ...] | Misread:
    """Reads kinds of candidates, like 'classical,zero-shot'. Returns them in the comparison's order, each once."""
    chosen = set()
    for word in filter(None, text.lower().split(",")):
        letters = re.sub(r"[-_]", "", word)
        kind = next((kind for kind in NAMED_KINDS if kind == letters), KIND_ALIASES.get(letters))
        if kind is None:
            return _unknown_name("candidate", word, NAMED_KINDS)
        chosen.add(kind)
    return tuple(kind for kind in NAMED_KINDS if kind in chosen)


def read_kind(text: str) -> CandidateKind | Misread:
    """Reads one kind of candidate, like 'encoder'."""
    kinds = read_kinds(text)
    if isinstance(kinds, Misread):
        return kinds
    if len(kinds) != 1:
        return Misread(f"“{shown(text)}” should be one candidate, like encoder.")
    return kinds[0]


def read_destination(text: str) -> Literal["nothing"] | Misread:
    if text.lower() == "nothing":
        return "nothing"
    return Misread(f"“{shown(text)}” should be nothing: without it, what was in use before is used again.")


def read_all(text: str) -> Literal["all"] | Misread:
    if text.lower() == "all":
        return "all"
    return Misread(f"`{shown(text)}` should be all, or be left out.")


def read_shots(text: str) -> int | Misread:
    """Reads a number of examples, like '20'. Returns 0 for 'auto'."""
    if text.lower() == "auto":
        return 0
    if re.fullmatch(r"[0-9]{1,2}", text) and 1 <= int(text) <= MOST_SHOTS:
        return int(text)
    return Misread(f"“{shown(text)}” should be a number of examples from 1 to {MOST_SHOTS}, or auto.")


def read_prompt_number(text: str) -> int | Literal["all"] | Misread:
    """Reads the number of instructions in a file of recorded calls, or 'all'."""
    if text.lower() == "all":
        return "all"
    if re.fullmatch(r"[0-9]{1,6}", text):
        return int(text)
    return Misread(f"“{shown(text)}” should be the number of instructions that the card lists, or all.")


def read_task(text: str) -> TaskKind | Misread:
    from bot.rules.facts import TASK_KINDS, task_kind

    return task_kind(text) or _unknown_name("task", text, list(TASK_KINDS))


def read_method(text: str) -> MethodName | Misread:
    word = OTHER_METHODS.get(text.lower(), text.lower())
    for name in methods.TYPED_METHODS:
        if name == word:
            return name
    return _unknown_name("method", word, methods.TYPED_METHODS)


def read_patience(text: str) -> int | Misread:
    if re.fullmatch(r"[0-9]{1,2}", text) and 1 <= int(text) <= 20:
        return int(text)
    return Misread(
        f"“{shown(text)}” should be a whole number from 1 to 20, like 2: training stops after this many validations "
        "without improvement."
    )


def read_names(text: str) -> tuple[str, ...]:
    """Reads names separated by commas or spaces. Returns at most MOST_NAMES, without repetitions."""
    names = filter(None, re.split(r"[\s,]+", text))
    return tuple(dict.fromkeys(names))[:MOST_NAMES]


def _unknown_name(what: str, word: str, names: Sequence[str]) -> Misread:
    there = f"{', '.join(names[:-1])} and {names[-1]}"
    return Misread(f"There is no {what} “{shown(word)}”.{did_you_mean(word, names)} Available: {there}.")


def _sanitized(read: Callable[[str], object]) -> _Read:
    """Wraps a reader of `bot.rules`, whose sentences quote the input verbatim, so that they hold no Slack markup."""

    def read_safely(text: str) -> object:
        value = read(text)
        if not isinstance(value, Misread):
            return value
        return Misread(plain(value.sentence), tuple(map(plain, value.readings)))

    return read_safely


def _figure_type(figure: Figure) -> TextType:
    def read(text: str) -> object:
        value = figure.read(text)
        if figure.is_whole and isinstance(value, Decimal):
            return int(value)
        return value

    return TextType("number", _sanitized(read))


NAME = TextType("name")
NAMES = TextType("names", read_names)
REST_NAMES = TextType("names", read_names, takes_rest=True)
DATASET = TextType("dataset", normalize_name, missing="Which dataset? `/finetune datasets` lists them.")
MODEL_OR_FOLDER = TextType("model or folder")
MODEL = TextType("model", missing="Which model? `/finetune models` lists them.")
RUN = TextType(
    *("run", read_run),
    missing="Which run? `/finetune runs` lists them.",
    hint=", with RUN a number like 7",
    takes_rest=True,
)
RUNS_OR_MEASUREMENTS = TextType(
    *("runs", read_subjects),
    missing="Which results? `/finetune runs` lists the runs.",
    hint=", with numbers of runs like 3, or of measurements like m7",
    takes_rest=True,
)
RUN_OR_MEASUREMENT = TextType("run", read_subject, missing=RUN.missing, hint=RUN.hint, takes_rest=True)
REST = TextType("text", takes_rest=True)
PROMPT = TextType("text", missing="Which model, and what should it answer?", takes_rest=True)
REASON = TextType("reason", lambda text: text[:LONGEST_REASON], takes_rest=True)
VOLUME = TextType("volume", _sanitized(parse_volume))
SWEEP = TextType("sweep", _sanitized(parse_sweep))
BAR = TextType("share", read_bar)
KIND = TextType("candidate", read_kind)
KINDS = TextType("candidates", read_kinds)
DESTINATION = TextType("nothing", read_destination)
SHOTS = TextType("number", read_shots)
ALL = TextType("all", read_all)
SAMPLE = TextType("share", read_sample)
TASK = TextType("task", read_task)
PROMPT_NUMBER = TextType("number", read_prompt_number)
PREDICT = TextType("numbers", read_predict)
PATIENCE = TextType("number", read_patience)
SECONDS = TextType("number", read_seconds)
DAY = TextType("day", read_day)
COUNT = TextType("number", read_count)
LABEL_USD = _figure_type(inputs.LABEL_USD)
MAX_USD = _figure_type(Figure("the most dollars to spend", "5", Decimal(0), Decimal(1_000_000)))
OPTIMISE = _figure_type(Figure("dollars for optimising a prompt", "2", Decimal("0.01"), Decimal(10_000)))

# Which candidate of a dataset a command means, if its kind alone doesn't say.
CANDIDATE_MODEL = click.option(
    "--model", type=NAME, help="The model of the candidate, if several were measured."
)
CANDIDATE_SHOTS = click.option(
    "--shots", type=SHOTS, help="The number of examples in its prompt, if several were measured."
)


@dataclass(frozen=True)
class QuestionOption:
    """An option of estimates and plans: `key=value` in Slack, `--key value` in the terminal, which also accepts
    `alias`. `fills` is the field of Question, or the hyperparameter, that it sets if that isn't named like the key."""

    group: OptionGroup
    key: str
    type: TextType
    help: str
    fills: str | None = None
    alias: str | None = None
    default: str | None = None

    @property
    def field(self) -> str:
        return self.fills or self.key

    def __call__(self, handler: _Handler) -> _Handler:
        """Declares the option on a command's handler, like click's own decorators."""
        spellings = [spelling for spelling in (self.key, self.alias) if spelling]
        flags = [f"--{spelling.replace('_', '-')}" for spelling in spellings]
        declare = grouped_option(
            self.group,
            *flags,
            self.field,
            type=self.type,
            help=self.help,
            default=self.default,
            is_eager=self.key == "method",  # the hyperparameters' types depend on it
        )
        return declare(handler)


def _hyperparameter(key: str, spec: Spec) -> QuestionOption:
    text = f"{spec.declared.help[:1].upper()}{spec.declared.help[1:]}; auto by default."
    return QuestionOption("training", key, HyperparameterType(spec), text, spec.name)


# Every option of plans and estimates is a row here, or a hyperparameter of trainers/methods.py.
QUESTION_OPTIONS: Mapping[str, QuestionOption] = {
    option.key: option
    for option in (
        QuestionOption("money", "current", NAME, "The model that you prompt today, like gpt-4o."),
        QuestionOption(
            "money", "volume", VOLUME, "Requests a month, like 20k requests, or their input tokens, like 10M."
        ),
        QuestionOption(
            "training",
            "target",
            NAME,
            "The model to train, like local/smollm2-135m or gpt-4.1-mini-2025-04-14.",
        ),
        QuestionOption(
            "training",
            "serve",
            NAME,
            "Who serves the tuned model by the token, like coreweave; by default it answers where it is trained.",
        ),
        QuestionOption(
            "training", "patience", PATIENCE, "Stop early after this many validations without improvement."
        ),
        QuestionOption(
            "money",
            "hours",
            _figure_type(inputs.PEOPLE_HOURS),
            "Hours of people's time that it takes, once.",
            "people_hours",
        ),
        QuestionOption(
            "money",
            "rate",
            _figure_type(inputs.PEOPLE_RATE),
            "Dollars for an hour of people's time (75 by default).",
            "people_rate",
        ),
        QuestionOption(
            "data",
            "labels",
            _figure_type(inputs.LABEL_COUNT),
            "Rows that still have to be labelled.",
            "label_count",
        ),
        QuestionOption("data", "label_usd", LABEL_USD, "Dollars for one label."),
        QuestionOption(
            "money", "wrong_usd", _figure_type(inputs.WRONG_USD), "Dollars that one wrong answer costs."
        ),
        QuestionOption(
            "money",
            "prompt_tokens",
            _figure_type(inputs.PROMPT_TOKENS),
            "Tokens of one request to today's model.",
        ),
        QuestionOption(
            "money",
            "batch",
            _figure_type(inputs.BATCH_SHARE),
            "Share of the requests that can wait a day for an answer, like 30%.",
            "batch_share",
        ),
        QuestionOption("money", "runs", _figure_type(inputs.RUNS), "Training runs until one is good enough."),
        QuestionOption(
            "money",
            "retrain",
            _figure_type(inputs.RETRAIN_MONTHS),
            "Months between trainings, if it is trained again regularly.",
            "retrain_months",
            alias="retrain_months",
        ),
        QuestionOption(
            "money", "monitoring_usd", _figure_type(inputs.MONITORING_USD), "Dollars a month for monitoring."
        ),
        QuestionOption(
            "money",
            "hosting_hours",
            _figure_type(inputs.HOSTING_HOURS),
            "Hours a month that your machine runs.",
        ),
        QuestionOption(
            "money",
            "serving_speed",
            _figure_type(inputs.SERVING_SPEED),
            "Tokens per second of the machine that serves the tuned model; it decides how many are needed.",
        ),
        QuestionOption(
            "money",
            "utilisation",
            _figure_type(inputs.UTILISATION),
            "Share of the time that this machine is busy, like 20%.",
        ),
        QuestionOption(
            "training",
            "method",
            TextType("method", read_method),
            f"How it learns: {', '.join(METHOD_HELP)}.",
            default="supervised",
        ),
        *(_hyperparameter(key, spec) for key, spec in methods.options().items()),
        QuestionOption(
            "training", "sweep", SWEEP, "Values to try, like lora_r:8,16;learning_rate:5e-4,1e-3."
        ),
        QuestionOption(
            "data",
            "judge",
            NAME,
            "A model that judges free text (by default the newest measurement's; none turns it off).",
        ),
    )
}
# What an estimate tries out, beside the question.
TRIED_OPTIONS: Mapping[str, QuestionOption] = {
    "bar": QuestionOption(
        "data", "bar", BAR, "The share of right answers to judge by, like 90%; for this answer only."
    ),
    "task": QuestionOption(
        "data", "task", TASK, "The kind of task, like classification or style; for this answer only."
    ),
}
HYPERPARAMETERS = frozenset(spec.name for spec in methods.options().values())
ESTIMATE_KEYS = tuple(key for key in QUESTION_OPTIONS if key != "patience")


def question_options(*keys: str) -> Callable[[_Handler], _Handler]:
    """Declares these options on a handler, which receives them under the names of Question's fields."""

    def declare(handler: _Handler) -> _Handler:
        for key in reversed(keys):
            handler = QUESTION_OPTIONS[key](handler)
        return handler

    return declare


def current_option_name(name: str) -> str:
    """Returns an option's name now, given the one that was typed: names of earlier versions are still read."""
    return NAME_NOW.get(name, name)


def option_key(option: click.Option) -> str:
    """Returns the option's key in Slack: `label_usd` for `--label-usd`."""
    return option.opts[0].removeprefix("--").replace("-", "_")


def build_question(values: Mapping[str, Any]) -> Question:
    """`values` are by the names of Question's fields and of hyperparameters; None means that it was not given."""
    fields = {}
    chosen = []
    for name, value in values.items():
        if value is None:
            continue
        if name in HYPERPARAMETERS:
            chosen.append((name, value))
        else:
            fields[name] = value
    # In one order, however they were typed: the same question has the same plan, and so the same hash.
    return Question(**fields, hyperparameters=tuple(sorted(chosen)))


# How answers quote what a person typed.


def did_you_mean(word: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not near:
        return ""
    return f" Did you mean `{near[0]}`?"


def shown(word: str) -> str:
    """Returns what a person typed for quoting in an answer: shortened, and without Slack markup."""
    return plain(word)[:40]


def plain(text: str) -> str:
    """Removes what Slack would read as markup, and control characters."""
    return "".join(letter for letter in text if letter.isprintable() and letter not in "`<>&")
