"""Exports a candidate that the bot or a command in the terminal has measured, as a folder that answers without this
project, or asks the model that was measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bot.cards.common.candidates import candidate_name
from bot.cards.models.exported_candidates import ExportedCandidate, measured_quality, readme
from bot.services.common import candidates, finished_measurements
from bot.services.datasets.dataset_worker import examples
from bot.services.datasets.datasets import report_of
from bot.services.evidence.measured_candidates import MeasuredHoldout, load_measured
from bot.services.serving.publications import upstream_of
from bot.services.serving.recipe_worker import build_recipe
from bot.services.serving.recipes import parts_of
from bot.settings import Settings
from bot.values.evaluations import ComparisonPlan
from bot.values.runs import Refusal
from storage.backup import open_copy
from storage.store import Store
from trainers.dataset import Example
from trainers.dataset.near_duplicates import question_text
from trainers.encoders import EncoderError
from trainers.encoders.embedding import find_encoder
from trainers.evaluation.results import Candidate, CandidateKind, Comparison, MeasuredCandidate
from trainers.evaluation.scores import score
from trainers.export_folder import (
    AnswersDiffer,
    ExportRefused,
    check_out,
    check_space,
    folder_when_complete,
)
from trainers.recipes.export import RecipeExport, ask_program, export_free, export_prompt
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.frozen import DESCRIPTION, FrozenClassifier
from trainers.recipes.values import Recipe

Say = Callable[[str], None]


@dataclass(frozen=True)
class WantedCandidate:
    """The candidate of a dataset, which its model and number of `shots` may tell from others."""

    dataset: str
    kind: CandidateKind
    model: str | None = None
    shots: int | None = None


@dataclass(frozen=True)
class _Chosen:
    """A candidate with its scores, judged together with all that was measured; the plan and the outcome of the
    evaluation that measured it, and that measurement's number, None in the terminal. Its rows are in `files`."""

    measured: MeasuredCandidate
    comparison: Comparison
    plan: ComparisonPlan
    outcome: Comparison
    files: Path
    number: int | None = None

    @property
    def measured_by(self) -> str:
        if self.number is None:
            return "this command"
        return f"m{self.number}"


def export_candidate(settings: Settings, wanted: WantedCandidate, out: Path, say: Say) -> Refusal | None:
    """Writes the folder `out`. Returns why it can't be written, None if it is."""
    try:
        check_out(out)
        chosen = _find(settings, wanted)
        if isinstance(chosen, Refusal):
            return chosen
        return _export(settings, chosen, out, say)
    except (ExportRefused, EncoderError) as error:
        return Refusal(str(error))


def export_measured(
    settings: Settings, plan: ComparisonPlan, comparison: Comparison, files: Path, out: Path, say: Say
) -> Refusal | None:
    """Writes the folder `out` with the only candidate that the terminal has just measured on the rows in `files`.
    Returns why it can't be written, None if it is."""
    (measured,) = comparison.candidates
    try:
        check_out(out)
        return _export(settings, _Chosen(measured, comparison, plan, comparison, files), out, say)
    except (ExportRefused, EncoderError) as error:
        return Refusal(str(error))


def _find(settings: Settings, wanted: WantedCandidate) -> _Chosen | Refusal:
    nothing = Refusal(
        f"Nothing was measured on {wanted.dataset}, so there is nothing to export. `/finetune baseline "
        f"{wanted.dataset}` measures it."
    )
    if not settings.database.exists():
        return nothing
    # A copy, as a running bot has the database open.
    with open_copy(settings.database) as store:
        measured = _measured(store, settings, wanted.dataset)
        if measured is None:
            return nothing
        return _choose(settings, wanted, measured)


def _measured(store: Store, settings: Settings, name: str) -> MeasuredHoldout | None:
    """Returns what was measured on the dataset's newest version, by the team's own bar if it has set one."""
    dataset = store.datasets.newest(name)
    report = report_of(dataset) if dataset else None
    if report is None or report.holdout_sha256 is None:
        return None
    return load_measured(store, settings.files, name, report.holdout_sha256)


def _choose(settings: Settings, wanted: WantedCandidate, measured: MeasuredHoldout) -> _Chosen | Refusal:
    matches = [
        each
        for each in measured.comparison.candidates
        if candidates.is_meant(settings, each.identity, wanted.kind, wanted.model, wanted.shots)
    ]
    if len(matches) != 1:
        there = matches or measured.comparison.candidates
        lines = [f"  {_command(wanted.dataset, each.identity)}" for each in there]
        what = "This was not measured. Measured were:"
        if matches:
            what = "Several of these were measured. Which one?"
        return Refusal("\n".join([what, *lines]))
    (match,) = matches
    measurement = measured.measured_by[match.identity]
    evaluation = finished_measurements.read_evaluation(measurement)
    if evaluation is None:
        return Refusal(
            f"m{measurement.id} was stored by a newer version of finetune. Use that one, or measure again."
        )
    return _Chosen(
        match,
        measured.comparison,
        evaluation.plan,
        evaluation.comparison,
        settings.files,
        measurement.id,
    )


def _command(dataset: str, candidate: Candidate) -> str:
    words = ["finetune export", dataset, candidate.kind]
    if candidate.model is not None:
        words.append(f"model={candidate.model}")
    if candidate.shots:
        words.append(f"shots={candidate.shots}")
    return " ".join(words)


def _export(settings: Settings, chosen: _Chosen, out: Path, say: Say) -> Refusal | None:
    identity = chosen.measured.identity
    if identity.kind == "tuned":
        return Refusal("A tuned model is exported by its own name: finetune export tickets-3 --to merged.")
    say(f"Building {candidate_name(identity)} as {chosen.measured_by} measured it")
    with tempfile.TemporaryDirectory() as temporary:
        recipes = RecipeFolder(Path(temporary))
        parts = parts_of(chosen.plan, chosen.outcome, chosen.measured)
        built = build_recipe(identity, chosen.plan, parts, chosen.files, recipes.root)
        if isinstance(built, Refusal):
            return built
        recipe = recipes.read(built)
        assert recipe is not None  # noqa: S101  it was stored just now
        files = {file.name: recipes.read_file(recipe, file.name) for file in recipe.files}
    export = _files_of(settings, recipe, files)
    check_space(out, export.size)
    with folder_when_complete(out) as folder:
        export.write(folder)
        card = _check(chosen, recipe, files, export, folder)
        (folder / "README.md").write_text(readme(card), encoding="utf-8")
    say(f"{out} is ready: {measured_quality(card)} README.md says how to use it.")
    return None


def _files_of(settings: Settings, recipe: Recipe, files: dict[str, bytes]) -> RecipeExport:
    """Raises ExportRefused and EncoderError."""
    if recipe.is_free:
        return export_free(files)
    row = settings.provider(recipe.provider or "")
    if row is None:
        raise ExportRefused(
            f"{recipe.provider} is no provider of the settings any more, so its address is unknown."
        )
    if row.is_started_by_us:
        raise ExportRefused(
            "Its model runs on this machine's own trainer, whose address changes with each start. Promote it, and call "
            "it by its address."
        )
    return export_prompt(recipe, upstream_of(settings, row))


def _check(
    chosen: _Chosen,
    recipe: Recipe,
    files: dict[str, bytes],
    export: RecipeExport,
    folder: Path,
) -> ExportedCandidate:
    """Has the folder's program answer the held-out rows, which must score as they were measured. Raises
    AnswersDiffer."""
    card = ExportedCandidate(
        recipe=recipe,
        plan=chosen.plan,
        comparison=chosen.comparison,
        measured=chosen.measured,
        measurement=chosen.number,
        measured_at=chosen.outcome.measured_at,
        program=export.program,
        n_train=len(examples(chosen.files, chosen.plan.train_sha256)),
    )
    if not recipe.is_free:
        return card
    holdout = examples(chosen.files, chosen.plan.holdout_sha256)
    answers = ask_program(folder, export.program, [question_text(row) for row in holdout])
    _check_scores(chosen, holdout, answers)
    frozen = FrozenClassifier.from_json(files[DESCRIPTION])
    licence = None
    if frozen.encoder is not None:
        licence = find_encoder(frozen.encoder).licence
    return replace(card, frozen=frozen, encoder_licence=licence, answers=len(holdout))


def _check_scores(chosen: _Chosen, holdout: Sequence[Example], answers: Sequence[str]) -> None:
    measured = chosen.measured
    pairs = zip(holdout, answers, strict=True)
    scores = [score(measured.scoring, row.answer, text, chosen.plan.labels) for row, text in pairs]
    compared = zip(scores, measured.scores, strict=True)
    differing = sum(now != then for now, then in compared)
    if differing:
        raise AnswersDiffer(
            f"It answers {differing} of {len(scores)} held-out rows otherwise than {chosen.measured_by} measured, "
            "perhaps because scikit-learn was updated since. Measure it again, which is free, then export it."
        )
