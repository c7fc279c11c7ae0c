"""`finetune export`: a tuned model for other programs, or a measured candidate as a folder that answers without us."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bot.cards.common.candidates import meaning, table_name
from bot.cards.training.result_comparison import before_name
from bot.cli.options import FILE, SHEET, exit_on_storage_error, load_for_file, refuse, value_or_exit
from bot.cli.output import Ticker
from bot.command_options import KIND, NAME, SHOTS
from bot.rules.plans import Plan, plan_from_json
from bot.values.runs import Refusal, RunResult
from storage.backup import open_copy
from storage.records import Model, Run
from trainers.dataset import Columns
from trainers.export_formats import DTYPES, FORMATS
from trainers.host import HUB_KEYS, child_environment
from trainers.packages import needs_extra

if TYPE_CHECKING:
    from bot.context import AppContext
    from bot.settings import Settings
    from trainers.evaluation.results import CandidateKind

Facts = Mapping[str, Any]
FOLDER = click.Path(path_type=Path)
COREWEAVE = "coreweave"
FORMS = "; ".join(f"{row.name}: {row.writes.replace('`', '')}" for row in FORMATS.values())


@click.command()
@click.argument("name")
@click.argument("candidate", type=KIND, required=False)
@click.option(
    "--to",
    type=click.Choice([*FORMATS, COREWEAVE]),
    help=f"The form of a tuned model. {FORMS}; {COREWEAVE}: its adapter, uploaded to be served by the token",
)
@click.option(
    "--out",
    type=FOLDER,
    help="The folder to write, new or empty. Default: NAME-FORM or NAME-CANDIDATE in this folder.",
)
@click.option(
    "--data", type=FOLDER, multiple=True, help="The data folder of a trainer that you started yourself."
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Number format of merged and GGUF weights. Default: the base model's; in GGUF, float16 instead of bfloat16.",
)
@click.option("--rows", type=FOLDER, help="Chat JSONL to check the export with. Default: the job's own rows.")
@click.option("--base-id", help="The base model's hub id, if it is a folder here.")
@click.option("--licence", help="The base model's licence, if its folder doesn't name it.")
@click.option("--repo", help="ORG/NAME to upload to, with --to hub; needs HF_TOKEN.")
@click.option("--public", is_flag=True, help="Make the repo public.")
@click.option("--model", type=NAME, help="The model of the candidate, if several were measured.")
@click.option("--shots", type=SHOTS, help="The number of examples in its prompt, if several were measured.")
@click.option("--holdout", type=FILE, help="With a file: the rows to measure on, instead of a part of it.")
@click.option("--text", help="With a file: the column with the text, for CSV.")
@click.option("--label", help="With a file: the column with the label, for CSV.")
@SHEET
def export(
    name: str,
    candidate: CandidateKind | None,
    to: str | None,
    out: Path | None,
    model: str | None,
    shots: int | None,
    holdout: Path | None,
    text: str | None,
    label: str | None,
    sheet: str | None,
    **options: Any,
) -> None:
    """Export what was measured for other programs: a tuned model, or a candidate.

    NAME is tickets-7, ft:…, a checkpoint or a job's folder, with a form (--to). Or it is a dataset, with the candidate
    that was measured on it: `finetune export tickets encoder` writes a folder that answers without this project. Or it
    is a file of rows: `finetune export tickets.csv encoder` measures the candidate, which costs nothing, and writes it.
    """
    settings = load_for_file()
    is_file = Path(name).is_file()
    about_rows = (holdout, text, label, sheet)
    if not is_file and any(about_rows):
        refuse(f"--holdout, --text, --label and --sheet say how a file is read, and {name} is no file here.")
    if candidate is not None and to is not None:
        refuse("--to is the form of a tuned model; a candidate has only one.")
    if is_file and (model is not None or shots is not None):
        refuse(
            "--model and --shots tell candidates of a dataset apart; a file's are measured now, and ask no model."
        )
    if candidate is not None and is_file:
        _export_from_file(settings, Path(name), candidate, out, holdout, Columns(text, label, sheet))
    elif candidate is not None:
        _export_candidate(settings, name, candidate, out, model, shots)
    elif to is not None:
        _export_model(settings, name, to, out, options)
    elif is_file:
        refuse(f"Export which candidate? Add it, as in: finetune export {name} encoder.")
    else:
        refuse(
            f"Export what of {name}? If it is a tuned model, add a form, like --to merged. If it is a dataset, add a "
            f"candidate that was measured on it: finetune export {name} encoder."
        )


def _export_candidate(
    settings: Settings,
    name: str,
    kind: CandidateKind,
    out: Path | None,
    model: str | None,
    shots: int | None,
) -> None:
    from bot.services.serving.candidate_exports import WantedCandidate, export_candidate
    from bot.values.upload_fields import normalize_name

    dataset = normalize_name(name)
    wanted = WantedCandidate(dataset, kind, model, shots)
    folder = out or Path(f"{dataset}-{kind}")
    with exit_on_storage_error():
        exported = export_candidate(settings, wanted, folder, click.echo)
        value_or_exit(exported)


def _export_from_file(
    settings: Settings,
    file: Path,
    kind: CandidateKind,
    out: Path | None,
    holdout: Path | None,
    columns: Columns,
) -> None:
    """Measures a free candidate on rows of a file, and exports it."""
    from bot.cli import datasets, evaluations
    from bot.services.serving.candidate_exports import export_measured
    from trainers.evaluation.results import FREE_KINDS

    if kind not in FREE_KINDS:
        free = " or ".join(FREE_KINDS)
        refuse(
            f"From a file only {free} can be exported, as measuring them costs nothing. What asks a model is exported "
            "by the name of the dataset on which the bot has measured it."
        )
    wanted = evaluations.EvaluationRequest(
        file,
        holdout,
        columns.text,
        columns.label,
        columns.sheet,
        kinds=(kind,),
        bar=settings.policy.promotion.bar,
    )
    with (
        exit_on_storage_error(),
        Ticker() as ticker,
        datasets.checked_rows(file, holdout, columns, {}, ticker) as checked,
    ):
        rows = datasets.require_usable(file, checked, ticker)
        measured = evaluations.evaluate(settings, wanted, rows, ticker)
        ticker.done()
        measured = value_or_exit(measured)
        folder = out or Path(f"{file.stem}-{kind}")
        value_or_exit(
            export_measured(settings, measured.plan, measured.comparison, rows.files, folder, click.echo)
        )


def _export_model(
    settings: Settings, name: str, to: str, out: Path | None, options: Mapping[str, Any]
) -> None:
    if to == COREWEAVE:
        _upload_adapter(settings, name, options)
        return
    # Looked up and not imported, as only the child process needs it.
    if importlib.util.find_spec("torch") is None:
        refuse(needs_extra("Exporting a tuned model", "local", ("export", name, "--to", to)))
    source = value_or_exit(find_model(settings, name))
    name = source.name or name
    if to == "hub" and options["repo"]:
        _check_hub(settings, name)
    # A folder's whole path would be no name for the folder to write.
    if "/" in name and not name.startswith("ft:"):
        name = Path(name).name
    out = out or Path(re.sub(r"[^\w.-]+", "-", name) + f"-{to}")
    arguments = [source.model, "--to", to, "--out", str(out), *_exporter_options(settings, options)]
    facts = ""
    if source.facts is not None:
        arguments.append("--facts")
        facts = json.dumps(source.facts)
    export = subprocess.run(
        [sys.executable, "-m", "trainers.local.export", *arguments],
        input=facts,
        encoding="utf-8",
        env=child_environment(*HUB_KEYS, "PIP_"),
        check=False,
    )
    if export.returncode == -signal.SIGKILL:
        refuse(
            "The export was killed, perhaps because memory ran out: it loads the model in float32. Use a machine with "
            f"more memory, and delete the unfinished folder {out.parent / f'.{out.name}-'}*."
        )
    sys.exit(export.returncode)


def _upload_adapter(settings: Settings, name: str, options: Mapping[str, Any]) -> None:
    """Uploads a tuned model's adapter to the vendor that serves it by the token."""
    from bot.services.serving.adapter_exports import upload_adapter

    folders = (*options["data"], settings.data / "trainer", settings.data / "terminal-trainer")
    with exit_on_storage_error(), _copied_context(settings) as context:
        uploaded = upload_adapter(settings, COREWEAVE, name, folders, options["base_id"], click.echo, context)
    value_or_exit(uploaded)


def _check_hub(settings: Settings, name: str) -> None:
    """Ends the command if the rules about data keep a model's rows from the hub."""
    from bot.services.serving.adapter_exports import hub_refusal

    with exit_on_storage_error(), _copied_context(settings) as context:
        refusal = hub_refusal(context, name)
    if refusal is not None:
        refuse(refusal.text)


@contextmanager
def _copied_context(settings: Settings) -> Iterator[AppContext | None]:
    """Yields what a copy of the bot's database knows, since a running bot has the database open; None without one."""
    if not settings.database.exists():
        yield None
        return
    from bot.cli.models import context_without_slack

    with open_copy(settings.database) as store, context_without_slack(settings, store) as context:
        yield context


def _exporter_options(settings: Settings, options: Mapping[str, Any]) -> list[str]:
    """Returns the options that the exporter has in common with this command, and where it looks for models and
    tools."""
    arguments = ["--tools", str(settings.data / "tools")]
    for root in (*options["data"], settings.data / "trainer", settings.data / "terminal-trainer"):
        arguments += ["--data", str(root)]
    for option in ("dtype", "rows", "base_id", "licence", "repo"):
        value = options[option]
        if value:
            arguments += [f"--{option.replace('_', '-')}", str(value)]
    if options["public"]:
        arguments.append("--public")
    return arguments


@dataclass(frozen=True)
class ExportSource:
    """A model to export. `model` is its name at the trainer; `name` is the one that people use, None if it has none.
    `facts` are for the model card, None if nothing was measured."""

    model: str
    name: str | None
    facts: Facts | None


def find_model(settings: Settings, name: str) -> ExportSource | Refusal:
    """Finds a run's model. Any other name is passed on to the exporter: ft:… names, checkpoints, and folders of
    jobs."""
    if not settings.database.exists():
        return ExportSource(name, None, None)
    # A copy, as a running bot has the database open.
    with open_copy(settings.database) as store:
        model = store.model(name) or next(iter(store.models_at_provider(name)), None)
        if model is None:
            return ExportSource(name, None, None)
        row = settings.provider(model.provider)
        if row is None or not row.keeps_models_here:
            return Refusal(
                f"{model.name} was trained at {model.provider}, which keeps its weights. Only models of a trainer on "
                "this machine can be exported."
            )
        run = store.runs.get(model.run_id)
        return ExportSource(
            model.provider_model, model.name, _facts(model, run) if run and run.result else None
        )


def _facts(model: Model, run: Run) -> Facts:
    plan, result = plan_from_json(run.plan), RunResult.from_json(run.result or "")
    measure, tuned, against = _scores(result, plan)
    return {
        "name": model.name,
        "run": run.id,
        "plan_hash": run.plan_hash,
        "dataset": f"{plan.dataset}, version {plan.dataset_version}",
        "source_sha256": plan.source_sha256,
        "train_rows": plan.n_train,
        "holdout_rows": plan.n_holdout,
        "holdout_sha256": plan.holdout_sha256,
        "measure": measure,
        "tuned": tuned,
        "against": against,
        "p_value": result.change.p,
    }


def _scores(result: RunResult, plan: Plan) -> tuple[str, Facts, list[Facts]]:
    """Returns the measure's name, the model's score, and the scores of the alternatives, by the comparison's measure if
    there is a comparison. In older results the base was scored by right answers, and is listed only if the comparison
    is too."""
    what = before_name(result)
    if result.before == "base":
        what = f"the untuned base, {plan.base_model}"
    before = result.change.before
    base = _score(what, before.score, before.low, before.high)
    comparison = result.comparison
    if comparison is None:
        tuned = _score("this model", result.tuned.share, result.tuned.low, result.tuned.high)
        return "the share of right answers", tuned, [base]
    candidate = comparison.of_kind("tuned")[0]
    tuned = _score("this model", candidate.score, candidate.low, candidate.high)
    against = []
    if candidate.scoring == "label" or result.partial is not None:
        against.append(base)
    for other in comparison.candidates:
        if other is not candidate and other.kind != result.before:
            name = table_name(other.identity)
            against.append(_score(name, other.score, other.low, other.high))
    return f"the share {meaning(candidate)}", tuned, against


def _score(what: str, score: float, low: float, high: float) -> Facts:
    return {"what": what, "score": score, "low": low, "high": high}
