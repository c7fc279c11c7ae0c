"""The `/finetune …` commands: their options, help, permission and handler in one place, and the listener that runs
them. Those about what is in use are in model_commands.py, the choice of messages in message_commands.py.

The help, docs/commands.md, the forms and the parser read these declarations, so a new command needs a service, a card
and one function here. Only the person who typed the command sees the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any, Literal

import click
from slack_bolt import App, Respond
from slack_sdk import WebClient

from bot.cards import status
from bot.cards.common import budgets as budget_cards
from bot.cards.common import general, prices
from bot.cards.common import help as help_cards
from bot.cards.common.help import CommandHelp, OptionHelp
from bot.cards.common.permissions import DOING
from bot.cards.datasets import dataset_deletion as dataset_deletion_cards
from bot.cards.datasets import datasets as dataset_cards
from bot.cards.evidence import wrong_rows as wrong_row_cards
from bot.cards.training import audits
from bot.cards.training import compared_results as compared_result_cards
from bot.cards.training import runs as run_cards
from bot.command_options import (
    ALL,
    BAR,
    COUNT,
    DATASET,
    DAY,
    ESTIMATE_KEYS,
    KINDS,
    NAME,
    NAMES,
    OPTIMISE,
    PREDICT,
    QUESTION_OPTIONS,
    REASON,
    REST,
    REST_NAMES,
    RUN,
    RUN_OR_MEASUREMENT,
    RUNS_OR_MEASUREMENTS,
    SHOTS,
    TASK,
    TRIED_OPTIONS,
    Subject,
    build_question,
    option_key,
    question_options,
)
from bot.command_parser import (
    COMMAND,
    Command,
    ParsedCommand,
    Registry,
    first_word,
    mentioned_people,
    parse,
    unescape,
)
from bot.context import AppContext
from bot.health import metrics
from bot.option_groups import by_group, grouped_option
from bot.questions.nearest import is_question
from bot.questions.other_place import explain_in_slack
from bot.rules.permissions import GOVERNED_BY, Rule
from bot.services import dataset_deletion, document_removal, overview
from bot.services.common import authorization, budgets, candidates, messages
from bot.services.datasets import documents, row_labels
from bot.services.decisions import estimate_requests, freeze, plans, team_questions
from bot.services.measurement import (
    distillations,
    evaluations,
    learning_curves,
    measurements,
    wrong_rows,
)
from bot.services.training import compared_results, runs
from bot.slack import message_commands, model_commands, question_answers
from bot.slack.forms import baseline_form, estimate_form, run_again_form, upload_form
from bot.slack.inbox import answer
from bot.slack.replies import (
    AfterAck,
    Call,
    Reply,
    card_or_refusal,
    counted_reply,
    give_reply,
    refusal_or_none,
)
from bot.values.requests import Baseline, Curve, Delete, Estimate, Start
from bot.values.runs import Refusal
from bot.values.terminal_commands import TERMINAL_COMMANDS

BECAUSE = "Why a soft rule about data does not apply here."

finetune = Registry()


def register(app: App, context: AppContext, wake: Callable[[], None]) -> None:
    @app.command(COMMAND)
    def listen(body: dict[str, Any], client: WebClient, respond: Respond) -> None:
        text = str(body.get("text") or "")
        mentioned = mentioned_people(text)
        delivery = f"command {body['trigger_id']}"
        person = str(body["user_id"])
        call = Call(context, person, str(body["channel_id"]), mentioned=mentioned, delivery=delivery)
        reply = reply_to(call, unescape(text))
        give_reply(reply, str(body["trigger_id"]), client, partial(answer, context, body, respond))
        wake()


def reply_to(call: Call, text: str) -> Reply:
    if is_question(text, {*finetune.commands, *TERMINAL_COMMANDS}):
        metrics.count_misread(None)
        return question_answers.answer(call, text, finetune, help_list())
    parsed = parse(finetune, text)
    if isinstance(parsed, Refusal):
        metrics.count_misread(finetune.named(first_word(text)[0]))
        return parsed
    return counted_reply(metrics.COMMANDS, str(parsed.command.name), partial(_handle, call, parsed))


def _handle(call: Call, line: ParsedCommand) -> Reply:
    if "read" in line.command.needs:
        refusal = authorization.refusal(call.context, call.person, "read", call.channel)
        if refusal:
            return refusal
    reply: Reply = line.handler(call, **line.values)
    return reply


def command_help(command: Command) -> CommandHelp:
    groups = by_group(command.options.values())
    options = []
    for title, members in groups.items():
        shown = title if len(groups) > 1 else None
        options += [OptionHelp(option_key(option), option.help or "", shown) for option in members]
    return CommandHelp(str(command.name), command.usage, command.help or "", options, command.main_options)


def help_list() -> Sequence[CommandHelp]:
    """Returns all commands for the help's list, except `help` itself."""
    return [command_help(command) for command in finetune if command.name != "help"]


@finetune.command(
    "help", help="the first commands; with a command's name, that one; with `all`, all", usage="[all]"
)
@click.argument("name", type=REST, required=False)
def show_help(call: Call, name: str | None) -> Reply:
    if not name:
        return help_cards.card()
    word, rest = first_word(name)
    if word.lower() == help_cards.ALL:
        return help_cards.all_commands(help_list())
    command = finetune.named(word)
    if command is None:
        return Refusal(explain_in_slack(list(finetune.commands), word, rest))
    return help_cards.one_command(command_help(command), is_full=rest.lower() == help_cards.ALL)


@finetune.command(
    "upload",
    help="upload labelled examples; or choose “Use as training data” in the menu of a message that has a file",
    needs=("upload",),
    instead="The form asks for the file and its name.",
    usage="[sheet=Tickets]",
)
@click.option("--sheet", default="", help="The sheet of a workbook to read, if it has several.")
def upload(call: Call, sheet: str) -> Reply:
    return upload_form(call, sheet=sheet)


@finetune.command(
    "datasets",
    help="the datasets, and the best that was measured on each; with `all`, earlier versions too",
    needs=("read",),
    usage="[all]",
)
@click.argument("extent", type=ALL, required=False)
def list_datasets(call: Call, extent: Literal["all"] | None) -> Reply:
    datasets = overview.listing(call.context, call.person, call.channel)
    return dataset_cards.listing(datasets, is_full=extent is not None)


@finetune.command(
    "baseline",
    help="measure what prompts, examples, retrieval and free models get right without training",
    needs=("measure",),
    usage="DATASET [models=local/smollm2-135m bar=90% judge=openai/gpt-4o-mini]",
    main_options=("models", "bar", "judge", "candidates", "optimise"),
    alone=baseline_form,
)
@click.argument("dataset", type=DATASET)
@click.option("--models", type=NAMES, default=(), help="The models to ask, like openai/gpt-4o-mini.")
@click.option(
    "--candidates",
    "kinds",
    type=KINDS,
    default=(),
    help="Some of classical, encoder, zero, optimised, kshot, retrieval.",
)
@click.option(
    "--shots", type=SHOTS, help="Examples in a prompt, like 20; auto tries several numbers on training rows."
)
@click.option("--optimise", type=OPTIMISE, help="Dollars to spend on a better prompt, like $2.")
@click.option(
    "--writer", type=NAME, help="The model that writes better prompts (by default the first of the models)."
)
@click.option("--judge", type=NAME, help="A model that judges free text, like openai/gpt-4o-mini.")
@click.option(
    "--bar",
    type=BAR,
    help="The share of right answers that is good enough, like 90%; from now on the team's bar.",
)
@click.option(
    "--task",
    type=TASK,
    help="The kind of task, like classification or style; from now on the team's setting.",
)
@click.option("--prompt", type=REST, help="Your instructions, instead of the default ones; must come last.")
@click.option("--because", type=REASON, help=BECAUSE)
def measure_baseline(call: Call, **values: Any) -> Reply:
    wanted = Baseline(**values)
    result = evaluations.ask(call.context, wanted, call.person, call.channel)
    return refusal_or_none(result)


@finetune.command(
    "curve",
    help="find out whether more labelled rows would help, and which",
    needs=("measure",),
    usage="DATASET [predict=2000,5000 label_usd=0.5]",
)
@click.argument("dataset", type=DATASET)
@question_options("label_usd")
@click.option("--predict", type=PREDICT, default=(), help="Numbers of rows to extend the curve to.")
def draw_curve(call: Call, **values: Any) -> Reply:
    wanted = Curve(**values)
    result = learning_curves.ask(call.context, wanted, call.person, call.channel)
    return refusal_or_none(result)


@finetune.command(
    "knowledge",
    help="list the documents that retrieval looks things up in, add one, or remove one",
    needs=("read", "upload"),
)
@click.argument("dataset", type=DATASET)
def add_document(call: Call, dataset: str) -> Reply:
    refusal = documents.may_upload(call.context, dataset, call.person, call.channel)
    if refusal:
        return refusal
    return document_removal.form(call.context, call.channel, dataset)


@finetune.command(
    "label",
    help="label rows whose label looks wrong, or the rows of a file that a model would learn most from",
    needs=("read", "upload"),
    usage="DATASET [20]",
)
@click.argument("dataset", type=DATASET)
@click.argument("count", type=COUNT, required=False)
def label_rows(call: Call, dataset: str, count: int | None) -> Reply:
    return row_labels.ask(call.context, dataset, count, call.person, call.channel)


@finetune.command(
    "distill",
    help="let a model that meets the bar label rows for training",
    needs=("read", "upload", "measure"),
    usage="DATASET teacher=openai/gpt-4o-mini",
)
@click.argument("dataset", type=DATASET)
@click.option("--teacher", type=NAME, help="The model that labels them; it must have been measured before.")
def distil(call: Call, dataset: str, teacher: str | None) -> Reply:
    if teacher is None:
        return Refusal("Which model should label the rows? Name it: `teacher=openai/gpt-4o-mini`.")
    return distillations.ask(call.context, dataset, teacher, call.person, call.channel)


@finetune.command(
    "prices",
    help="what models cost, with the source of each price; with `all`, also those that have ended",
    needs=("read",),
    usage="[gpt-4o-mini]",
)
@click.argument("names", type=REST_NAMES, default=())
def list_prices(call: Call, names: tuple[str, ...]) -> Reply:
    is_full = [name.lower() for name in names] == [help_cards.ALL]
    if is_full:
        names = ()
    shown_by = ""
    if not names and not is_full:
        shown_by = f"`{COMMAND} prices {help_cards.ALL}`"
    return prices.listing(
        candidates.look_up_prices(call.context, names),
        call.context.today(),
        shown_by=shown_by,
        tried_with=call.context.settings.tried_with,
    )


@finetune.command(
    "estimate",
    help="estimate what training would cost and save; alone, it opens a form",
    needs=("estimate",),
    usage="DATASET current=gpt-4o volume=20k requests target=local/smollm2-135m [bar=90% hours=20]",
    main_options=("current", "volume", "target", "bar", "hours"),
    alone=estimate_form,
)
@click.argument("dataset", type=DATASET)
@question_options(*ESTIMATE_KEYS)
@TRIED_OPTIONS["bar"]
@TRIED_OPTIONS["task"]
def estimate(call: Call, **values: Any) -> Reply:
    request = estimate_request(values)
    refusal = estimate_requests.may_ask(call.context, request, call.person, call.channel)
    if refusal:
        return refusal
    return AfterAck(
        partial(estimate_requests.answer, call.context, request, call.person, call.channel, call.thread)
    )


def estimate_request(values: Mapping[str, Any]) -> Estimate:
    """Builds the request from the values that the command's options read."""
    of_dataset = {name: values[name] for name in ("dataset", "bar", "task")}
    question = {name: value for name, value in values.items() if name not in of_dataset}
    return Estimate(**of_dataset, question=build_question(question))


@finetune.command(
    "start",
    help="ask the team to approve a training plan and its cost; the training starts once they have",
    needs=("start",),
    usage="DATASET target=local/smollm2-135m [current=gpt-4o volume=20k requests epochs=2]",
    main_options=("target", "current", "volume", "epochs", "method"),
)
@click.argument("dataset", type=DATASET)
@question_options(*QUESTION_OPTIONS)
@grouped_option("data", "--because", type=REASON, help=BECAUSE)
def start(call: Call, dataset: str, because: str | None, **question: Any) -> Reply:
    typed = Start(dataset, build_question(question), because)
    request = team_questions.continue_from_team(call.context, typed)
    allowed = plans.may_start(call.context, request, call.person, call.channel)
    if isinstance(allowed, Refusal):
        return allowed
    return AfterAck(partial(_start, call, request))


def _start(call: Call, request: Start) -> Refusal | None:
    result = plans.start(call.context, request, call.person, call.channel)
    if not isinstance(result, Refusal):
        return None
    message = general.text_message(result.text)
    messages.tell_person(
        call.context, None, call.person, call.channel, message, topic="answers", thread_ts=call.thread
    )
    return result


@finetune.command(
    "again",
    help="repeat a run with changes, in a form that is filled in with everything that its plan had",
    needs=("start",),
)
@click.argument("run", type=RUN)
def repeat(call: Call, run: int) -> Reply:
    return run_again_form(call, run)


@finetune.command(
    "status",
    help="what is running, and the latest results; with a number, one run or measurement",
    needs=("read",),
    usage="[RUN]",
)
@click.argument("subject", type=RUN_OR_MEASUREMENT, required=False)
def show_status(call: Call, subject: Subject | None) -> Reply:
    if subject is None:
        return status.card(overview.status(call.context, call.person, call.channel))
    return _show_subject(call, subject)


@finetune.command(
    "runs",
    help="the latest runs",
    needs=("read",),
    instead="`/finetune status RUN` is about a single run.",
)
def list_runs(call: Call) -> Reply:
    visible = authorization.visible_datasets(call.context, call.person, call.channel)
    return run_cards.listing(runs.latest(call.context, visible), visible.unchecked)


@finetune.command("pause", help="pause a training; what it has learnt is kept", needs=("pause",))
@click.argument("run", type=RUN)
def pause(call: Call, run: int) -> Reply:
    return runs.ask_pause(call.context, run, call.person, call.channel)


@finetune.command("resume", help="continue a paused training", needs=("pause",))
@click.argument("run", type=RUN)
def resume(call: Call, run: int) -> Reply:
    return runs.ask_resume(call.context, run, call.person, call.channel)


@finetune.command("cancel", help="stop a run or a measurement", needs=("cancel",), usage="RUN")
@click.argument("subject", type=RUN_OR_MEASUREMENT)
def cancel(call: Call, subject: Subject) -> Reply:
    if subject.is_measurement:
        return measurements.ask_cancel(call.context, subject.number, call.person, call.channel)
    return runs.ask_cancel(call.context, subject.number, call.person, call.channel)


@finetune.command(
    "results",
    help="the latest results; with a number, that of a run or measurement, beside what was estimated",
    needs=("read",),
    usage="[RUN]",
)
@click.argument("subject", type=RUN_OR_MEASUREMENT, required=False)
def show_results(call: Call, subject: Subject | None) -> Reply:
    if subject is None:
        latest, unchecked = overview.latest_results(call.context, call.person, call.channel)
        return status.results_card(latest, unchecked)
    return _show_subject(call, subject)


@finetune.command(
    "compare",
    help="results side by side: which is better, on which rows, at what cost, with which settings",
    needs=("read",),
    usage="RUN RUN [m3]",
)
@click.argument("subjects", type=RUNS_OR_MEASUREMENTS)
def compare(call: Call, subjects: tuple[Subject, ...]) -> Reply:
    compared = compared_results.compare_for(call.context, subjects, call.person, call.channel)
    return card_or_refusal(compared, compared_result_cards.card)


@finetune.command(
    "wrong",
    help="rows that a run or measurement got wrong: training rows, or held-out rows, which then count as read",
    needs=("read",),
    usage="RUN",
)
@click.argument("subject", type=RUN_OR_MEASUREMENT)
def show_wrong_rows(call: Call, subject: Subject) -> Reply:
    offered = wrong_rows.offer(call.context, subject, call.person, call.channel)
    return card_or_refusal(offered, wrong_row_cards.offer_card)


@finetune.command(
    "budget",
    help="the month's budget: spent, reserved and left, and what it was spent on",
    needs=("read",),
    instead="It shows the budgets of all channels that you are in.",
)
def show_budget(call: Call) -> Reply:
    return budget_cards.card(budgets.month_for(call.context, call.person, call.channel))


@finetune.command(
    "freeze",
    help="stop all new spending; trainings that are running go on",
    needs=("freeze",),
    usage="[reason]",
)
@click.argument("reason", type=REASON, default="")
def start_freeze(call: Call, reason: str) -> Reply:
    return refusal_or_none(freeze.freeze(call.context, reason, call.person, call.channel))


@finetune.command(
    "unfreeze",
    help="lift the freeze; two approvers have to type it",
    needs=("unfreeze",),
    instead="Two approvers have to type it, without anything after it.",
)
def end_freeze(call: Call) -> Reply:
    return refusal_or_none(freeze.unfreeze(call.context, call.person, call.channel))


finetune.include(message_commands.registry)


@finetune.command("audit", help="who did what to a run, and when", needs=("read",))
@click.argument("run", type=RUN)
def show_audit(call: Call, run: int) -> Reply:
    return card_or_refusal(runs.audit_history(call.context, run, call.person, call.channel), audits.card)


finetune.include(model_commands.registry)


@finetune.command(
    "delete",
    help="delete a dataset with everything that was made from it",
    needs=("read", "delete"),
    usage="DATASET [before=2026-01-31]",
)
@click.argument("dataset", type=DATASET)
@click.option("--before", type=DAY, help="Only versions that were uploaded before this day.")
def delete(call: Call, dataset: str, before: date | None) -> Reply:
    request = Delete(dataset, before)
    scope = dataset_deletion.may_ask(call.context, request, call.person, call.channel)
    if isinstance(scope, Refusal):
        return scope
    metadata = dataset_deletion_cards.deletion_metadata(request, call.channel)
    return dataset_deletion_cards.deletion_form(scope, metadata)


@finetune.command(
    "rights",
    help="what you may do in this channel, or with a mention what somebody else may",
    usage="[@Ben]",
)
@click.argument("who", type=REST, required=False)
def show_rights(call: Call, who: str | None) -> Reply:
    person = None
    if who:
        refusal = authorization.refusal(call.context, call.person, "read", call.channel)
        if refusal:
            return refusal
        if len(call.mentioned) != 1:
            return Refusal("Whose rights? Mention one person: `/finetune rights @Ben`.")
        (person,) = call.mentioned
    verdicts = authorization.rights(call.context, person or call.person, call.channel)
    if isinstance(verdicts, Refusal):
        return verdicts
    rights = [general.Right(rule, _commands_needing(rule), denied, DOING[rule]) for rule, denied in verdicts]
    return general.rights_card(rights, person)


def _show_subject(call: Call, subject: Subject) -> Reply:
    if subject.is_measurement:
        return measurements.current_card(call.context, subject.number, call.person, call.channel)
    summary = runs.summarize(call.context, subject.number, call.person, call.channel)
    if not isinstance(summary, Refusal):
        runs.refresh_result(call.context, summary.run)
    return card_or_refusal(summary, run_cards.details_card)


def _commands_needing(rule: Rule) -> Sequence[str]:
    """Returns the commands that a rule governs, including those that undo what it allows. One that also reads is named
    with what else it does."""
    names = []
    for command in finetune:
        rules = [GOVERNED_BY.get(need, need) for need in command.needs]
        if len(rules) > 1 and rule == "read":
            continue
        if rule in rules:
            names.append(str(command.name))
    return names
