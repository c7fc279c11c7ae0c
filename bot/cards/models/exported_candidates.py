"""README.md of a measured candidate's exported folder: how to use it, what was measured, what it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from bot.cards.common.candidates import bar_text, long_name, short_meaning
from bot.cards.common.words import interval, percent, pluralize
from bot.values.evaluations import ComparisonPlan
from trainers.evaluation.results import Comparison, MeasuredCandidate
from trainers.recipes.calibration import Calibration
from trainers.recipes.frozen import FrozenClassifier
from trainers.recipes.values import Recipe

STANDINGS = {
    "meets": "It meets {bar}.",
    "misses": "It misses {bar}.",
    "undecided": "These rows can't tell whether it meets {bar}.",
}
OUR_LICENCE = "The programs in this folder: Apache-2.0."


@dataclass(frozen=True)
class ExportedCandidate:
    """What was exported. `measurement` is the number of the one whose plan the candidate was built by, None if it was
    measured in the terminal; that ended at `measured_at`, in unix seconds. `frozen` is None for a prompt, and
    `encoder_licence` for all but the encoder. `n_train` is the number of training rows, and `answers` that of the
    held-out rows to which the folder's program gave the measured answers."""

    recipe: Recipe
    plan: ComparisonPlan
    comparison: Comparison
    measured: MeasuredCandidate
    measurement: int | None
    measured_at: float
    program: str
    n_train: int
    frozen: FrozenClassifier | None = None
    encoder_licence: str | None = None
    answers: int = 0


def readme(exported: ExportedCandidate) -> str:
    name = long_name(exported.measured.identity)
    sections = [
        f"# {exported.recipe.dataset}: {name}",
        _opening(exported),
        "## Use\n\n" + _usage(exported),
        "## Measured\n\n" + _measured(exported),
        "## Rows\n\n" + _rows(exported),
    ]
    if exported.recipe.labels:
        labels = [f"- {label}" for label in exported.recipe.labels]
        sections.append("## Labels\n\n" + "\n".join(labels))
    sections.append("## Limits\n\n" + _list(_limits(exported)))
    sections.append("## Licences\n\n" + _list(_licences(exported)))
    return "\n\n".join(sections) + "\n"


def _opening(exported: ExportedCandidate) -> str:
    recipe = exported.recipe
    what = "Answers with an object of JSON"
    if recipe.labels:
        what = f"Gives texts one of {pluralize(len(recipe.labels), 'label')}"
    if recipe.model is not None:
        return f"Asks {recipe.model} with the prompt that was measured as m{exported.measurement}."
    measured = "when this folder was written"
    if exported.measurement is not None:
        measured = f"as m{exported.measurement}"
    return f"{what}, and asks no model. It was measured {measured}."


def _usage(exported: ExportedCandidate) -> str:
    recipe = exported.recipe
    if exported.frozen is None:
        packages = "openai"
    elif exported.frozen.encoder is None:
        packages = "numpy"
    else:
        packages = "numpy onnxruntime tokenizers"
    command = f'```\npip install {packages}\npython {exported.program} "where is my parcel?"\n```\n\n'
    if recipe.model is not None:
        return (
            f"{command}`prompt.json` has the messages before the question, the model, its address and the parameters "
            f"with which it was measured; `{exported.program}` adds the question. It reads the key from the variable "
            "of the environment that `key_variable` names."
        )
    if recipe.labels:
        return (
            f"{command}`{exported.program}` has a class `Classifier`: `classify(text)` returns a label, and "
            "`probabilities(text)` each label's probability, or None if they are unknown."
        )
    return f"{command}`{exported.program}` has a class `Extractor` whose `answer(text)` returns the object as JSON."


def measured_quality(exported: ExportedCandidate) -> str:
    """How good it was when it was measured, and whether it meets the bar."""
    measured = exported.measured
    bar = bar_text(exported.comparison.bar, exported.comparison.is_bar_set)
    rows = pluralize(measured.n, "held-out row")
    day = datetime.fromtimestamp(exported.measured_at, UTC).date()
    between = interval(measured.low, measured.high)
    standing = STANDINGS[measured.standing].format(bar=bar)
    score = f"{percent(measured.score)} {short_meaning(measured)} (95% interval {between})"
    return f"{score} on {rows}, on {day.isoformat()}. {standing}"


def _measured(exported: ExportedCandidate) -> str:
    lines = [measured_quality(exported)]
    if exported.answers:
        lines.append(
            f"`{exported.program}` ran in a process of its own on all {exported.answers:,} held-out rows: they score "
            "as measured."
        )
    if exported.frozen is not None and exported.frozen.calibration is not None:
        lines.append(calibration_text(exported.frozen.calibration))
    return "\n\n".join(lines)


def calibration_text(calibration: Calibration) -> str:
    """How true the probabilities are, or why there are none."""
    if calibration.curve is None or calibration.error is None:
        return f"It gives no probabilities. {calibration.reason}"
    rows = pluralize(calibration.rows, "training row")
    points = f"{100 * calibration.error:.1f} points"
    return (
        f"Probabilities: on {rows} that a classifier had not seen, the likeliest label's probability and the share of "
        f"right answers differ by {points} on average (expected calibration error). They hold for requests like these "
        "rows."
    )


def _rows(exported: ExportedCandidate) -> str:
    plan = exported.plan
    lines = [
        f"{plan.dataset}, version {plan.version}: {pluralize(exported.n_train, 'training row')} and "
        f"{plan.n_holdout:,} held out.",
        f"- sha256 of the training rows: `{plan.train_sha256}`\n"
        f"- sha256 of the held-out rows: `{plan.holdout_sha256}`\n"
        f"- sha256 of the recipe: `{exported.recipe.sha256}`",
    ]
    return "\n\n".join(lines)


def _limits(exported: ExportedCandidate) -> Sequence[str]:
    recipe = exported.recipe
    if recipe.model is not None:
        limits = ["The model's provider may change or end the model."]
        if recipe.shots:
            rows = pluralize(len(recipe.shots), "row")
            limits.append(f"prompt.json shows {rows} of the dataset: treat it like them.")
        if recipe.prompt is None and recipe.instructions is None:
            limits.append("The rows came with different instructions; prompt.json has the usual ones.")
        return limits
    limits = ["It was measured on no other kind of questions than the rows have."]
    if recipe.labels:
        limits.append("It answers any text with one of its labels, even if none of them fits.")
    if exported.frozen is not None and exported.frozen.encoder is not None:
        limits.append("It reads only the first 128 tokens of a text.")
    else:
        limits.append("It reads only the first 4,000 characters of a text.")
        limits.append(
            "classifier.npz holds words and pairs of words of the training rows: treat it like them."
        )
    return limits


def _licences(exported: ExportedCandidate) -> Sequence[str]:
    licences = [OUR_LICENCE]
    if exported.frozen is None:
        licences.append("The model: its provider's terms.")
        return licences
    licences.append(
        "The weights in classifier.npz were learnt from your rows, and are yours as far as those are."
    )
    if exported.frozen.encoder is not None:
        licence = exported.encoder_licence or "not stated by its files"
        licences.append(f"The encoder {exported.frozen.encoder} (model.onnx, tokenizer.json): {licence}.")
    return licences


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
