"""Every card in its typical states, by name, for the golden files, the checks and the screenshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from functools import cache
from typing import Any

from bot.cards import home, plain_questions
from bot.cards.common import general, judge_agreement, message_topics
from bot.cards.common import help as help_cards
from bot.cards.common.blocks import Message
from bot.cards.common.help import NearCommand
from bot.cards.common.message_topics import ChosenTopics
from bot.cards.common.prices import tried_text
from bot.cards.datasets import data_policy, dataset_columns, datasets, documents
from bot.cards.datasets.documents import DocumentEntry, DocumentUse
from bot.cards.decisions import estimate_form, estimates, plan_details, plans, run_again
from bot.cards.decisions.estimate_form import EstimateChoices
from bot.cards.evidence import (
    evaluation_details,
    evaluations,
    learning_curves,
    prompt_search,
)
from bot.cards.home import HomeOverview
from bot.cards.models import tried_answers
from bot.cards.training import runs
from bot.command_parser import parse
from bot.slack.commands import command_help, finetune, help_list
from bot.values.evaluations import promotable_candidate
from bot.values.monitoring import MonthlyScore, WeekFacts
from bot.values.runs import Refusal
from storage.records import Promotable
from tests.cards import builders, measurements
from tests.cards.builders import ANSWER, ASK, BUDGET, GO, HASH, LOSSES, NO_BUDGET, PREDICTED
from tests.cards.datasets import dataset_cards, labelling_cards, trace_cards
from tests.cards.decisions import estimate_cards
from tests.cards.decisions.estimate_cards import TARGET
from tests.cards.evidence import curve_cards, evaluation_cards, sealed_cards, sweep_cards, wrong_row_cards
from tests.cards.measurements import CANDIDATES, DISTRUSTING, JUDGED, MANY_ERRORS, SEARCH
from tests.cards.models import deployment_cards, promotion_cards, sunset_cards
from tests.cards.monitoring import live_test_cards, watch_cards
from tests.cards.training import compared_cards, intervention_cards, result_cards, run_cards
from trainers.dataset import LabelCount
from trainers.dataset.reader import FirstRows
from trainers.evaluation.results import CLASSICAL, Candidate
from trainers.evaluation.scores import HOW_READ
from trainers.recipes.free import FreeAnswer

Json = Mapping[str, Any]
FREE_ANSWER = FreeAnswer("lost_parcel", (("lost_parcel", 0.87), ("late_parcel", 0.09), ("refund", 0.04)))

NOT_ALL_TOPICS = ChosenTopics(frozenset({"results", "money", "problems"}), frozenset({"money", "ends"}))


NEAR_COMMANDS = (
    NearCommand("estimate tickets", finetune.commands["estimate"].help or "", is_run_by_click=True),
    NearCommand("baseline tickets", finetune.commands["baseline"].help or "", is_run_by_click=False),
    NearCommand("budget", finetune.commands["budget"].help or "", is_run_by_click=True),
)


def _details() -> dict[str, Json]:
    """The forms behind a card's button."""
    predicted = builders.plan(predicted=PREDICTED)
    result = builders.result_with(190, beside=measurements.comparison_beside_classical(140, 190), advice=GO)
    done = replace(
        builders.run_summary("done"), plan=predicted, result=result, actuals=builders.actuals(0.84)
    )
    by_words = replace(
        done,
        result=builders.result_with(150, labelled=False, beside=measurements.comparison_by_f1()),
        actuals=builders.actuals(None),
        running=MANY_ERRORS,
    )
    people, judge = DISTRUSTING, JUDGED
    judged = measurements.comparison(
        [replace(candidate, scoring="judge", unread=0) for candidate in CANDIDATES[2:5]]
    )
    plan = measurements.judged_plan()
    notes = judge_agreement.judge_notes(
        plan.judge, judge_agreement.judged_models(plan), judge, judged, people
    )
    got_worse = replace(
        done,
        plan=replace(predicted, judge=plan.judge),
        result=builders.result_with(
            184,
            labelled=False,
            beside=measurements.comparison_beside_prompted(scoring="judge"),
            judge=judge,
            judge_checks=people,
            worse_labels=LOSSES,
        ),
    )
    comparisons = {
        "comparison-met-details": evaluation_details.details(
            measurements.comparison(),
            spent_micros=590_000,
            estimated_micros=640_000,
            how_read=HOW_READ,
            notes=["Passages with personal data were kept from openai/gpt-4o-mini."],
        ),
        "comparison-none-meets-details": evaluation_details.details(
            measurements.comparison_that_none_meets(), spent_micros=0, estimated_micros=0
        ),
        "comparison-documents-details": evaluation_details.details(measurements.comparison_with_documents()),
        "comparison-many-details": evaluation_details.details(measurements.comparison_of_many(24)),
        "comparison-judged-details": evaluation_details.details(judged, notes=notes),
        "optimised-details": (
            *evaluation_details.details(measurements.optimised_comparison()),
            *prompt_search.details(measurements.search_plan(optimised=SEARCH.prompt), SEARCH),
        ),
        "curve-details": learning_curves.details(measurements.curve()),
        "curve-tuned-details": learning_curves.details(curve_cards.tuned_curve(), Decimal("0.50")),
    }
    return {
        "result-details": runs.details_form(done),
        "result-by-words-details": runs.details_form(by_words),
        "result-judged-details": runs.details_form(got_worse),
        "run-training-details": runs.details_form(builders.run_summary("training")),
        "form-try": tried_answers.try_form("tickets-7", "C0TICKETS"),
        **{name: general.details_modal("Measurement m3", parts) for name, parts in comparisons.items()},
    }


RIGHTS = (
    general.Right("read", ("datasets", "status"), None),
    general.Right("approve", (), "Only an approver may do that: <@U0BEN>.", "approve a run"),
    general.Right("promote", ("promote", "rollback"), "Only an approver may do that: <@U0BEN>."),
)


def _models() -> dict[str, Message]:
    return {
        "try-thinking": tried_answers.pending_card(ASK),
        "try-answered": tried_answers.answer_card(
            ASK, ANSWER.text, tried_answers.answer_note(Promotable("tickets-3"), ANSWER)
        ),
        "try-answered-free": tried_answers.answer_card(
            replace(ASK, model="team/tickets", promotion=3),
            "lost_parcel",
            tried_answers.free_note(promotable_candidate(CLASSICAL, 3), FREE_ANSWER),
        ),
        "try-answered-by-a-prompt": tried_answers.answer_card(
            replace(ASK, model="team/tickets", promotion=4),
            ANSWER.text,
            tried_answers.answer_note(
                promotable_candidate(Candidate("zero", "openai/gpt-4o-mini"), 3), ANSWER
            ),
        ),
        "try-judged": tried_answers.noted_message(
            tried_answers.verdict_noted("Where is my parcel?", "tickets", 15, 14), 4
        ),
        "try-failed": tried_answers.failure_card(
            ASK, "The trainer is down. It is started with the bot: try again."
        ),
        "help": help_cards.card(),
        "all-commands": help_cards.all_commands(help_list()),
        "nearest-commands": help_cards.nearest_commands(NEAR_COMMANDS),
        "no-near-command": help_cards.nearest_commands([]),
        "nearest-without-a-model": help_cards.nearest_commands(
            NEAR_COMMANDS, plain_questions.failed("openai/gpt-4o-mini", "<500> *Server* error.")
        ),
        "question-read": plain_questions.offered_card(
            4,
            "start tickets epochs=2",
            "ask the team to approve a training plan and its cost",
            "openai/gpt-4o-mini",
            is_complete=True,
        ),
        "question-read-in-part": plain_questions.offered_card(
            5, "compare 3 RUN", "results side by side", "openai/gpt-4o-mini", is_complete=False
        ),
        "question-read-and-run": plain_questions.ran_card(
            6, "budget", NEAR_COMMANDS[2].what, "openai/gpt-4o-mini"
        ),
        "question-without-command": plain_questions.none_card(
            7, "No command prints <rows> of a *dataset*.", "openai/gpt-4o-mini"
        ),
        "help-of-one": help_cards.one_command(command_help(finetune.commands["delete"])),
        "help-of-estimate": help_cards.one_command(command_help(finetune.commands["estimate"])),
        "all-options-of-estimate": help_cards.one_command(
            command_help(finetune.commands["estimate"]), is_full=True
        ),
        "help-of-baseline": help_cards.one_command(command_help(finetune.commands["baseline"])),
        "rights": general.rights_card(RIGHTS),
        "rights-of-somebody": general.rights_card(RIGHTS[:1], "U0CLEO"),
        "messages-chosen": message_topics.card("C0TICKETS", NOT_ALL_TOPICS),
        "messages-chosen-directly": message_topics.card("", ChosenTopics(frozenset(), None)),
        "messages-of-a-channel": message_topics.channel_notice("U0ANA", {"results": False, "weekly": True}),
        "messages-direct-result": general.text_message(
            message_topics.result_notice("run 7", "Use it: 91% right, <above> the bar", "7")
        ),
        "file-hint": general.file_hint(),
        "command-asked-back": general.answer(_asked_back()),
    }


def _watched_home() -> HomeOverview:
    """Weeks in which much waits, little, and nothing was called."""
    busy = watch_cards.summary(
        facts=replace(watch_cards.FACTS, shift=watch_cards.SHIFT),
        new=watch_cards.NEW,
        again=watch_cards.AGAIN,
    )
    monthly = MonthlyScore(200, 24_000, "money")
    quiet = watch_cards.summary(live=None, to_label=0, month=monthly)
    silent = watch_cards.summary(facts=WeekFacts("2026-11-23"))
    links = {"week tickets 2026-11-23": "https://x.slack.com/archives/C0/p9"}
    return HomeOverview([], [], [], [], NO_BUDGET, links=links, watched=[busy, quiet, silent])


def _views() -> dict[str, Json]:
    waiting = builders.run("awaiting_approval")
    by_state = {state: [builders.run_summary(state)] for state in ("awaiting_approval", "training", "done")}
    return {
        "home": home.page(
            HomeOverview(
                mine=by_state["awaiting_approval"],
                to_confirm=run_cards.evaluation_summaries()[1:2],
                open=[*by_state["training"], *run_cards.evaluation_summaries()[:1]],
                recent=[*by_state["done"], *run_cards.evaluation_summaries()[4:]],
                budget=BUDGET,
                in_use=promotion_cards.in_use(),
                links={
                    f"{card} {number}": f"https://x.slack.com/archives/C0/p{number}"
                    for card, number in (("plan", 7), ("run", 7), ("measurement", 4))
                },
            )
        ),
        "home-watched": home.page(_watched_home()),
        "home-nothing-waits": home.page(HomeOverview([], [], [], by_state["done"], NO_BUDGET)),
        "home-empty": home.page(HomeOverview([], [], [], [], NO_BUDGET, is_new=True)),
        "form-columns": dataset_columns.columns_form(
            builders.dataset(),
            builders.report_with_unclear_columns(),
            [
                FirstRows(
                    "",
                    (
                        ("text", "category", "topic"),
                        ("Where is my parcel? Where is my parcel?…", "delivery", "lost"),
                        ("A refund", "billing"),
                    ),
                )
            ],
        ),
        "form-sheets": dataset_columns.columns_form(
            builders.dataset(),
            builders.report_of_a_workbook(),
            [
                FirstRows("Tickets", (("message", "intent"), ("Where is it?", "delivery"))),
                FirstRows("Mails", (("subject", "queue"), ("My parcel", "delivery"))),
            ],
        ),
        "form-sheets-read-together": dataset_columns.columns_form(
            builders.dataset(), builders.report_of_a_workbook(are_alike=True), []
        ),
        "form-columns-again": dataset_columns.columns_form(
            builders.dataset(),
            builders.report(),
            [FirstRows("", (("id", "message", "intent", "agent"), ("1", "Where?", "delivery", "A")))],
        ),
        "form-messages": message_topics.form("C0TICKETS", NOT_ALL_TOPICS),
        "form-messages-of-a-person": message_topics.form("C0TICKETS", ChosenTopics(frozenset(), None)),
        "form-upload": datasets.upload_modal("C0TICKETS"),
        "form-upload-again": datasets.upload_modal("C0TICKETS", name="tickets"),
        "form-all-commands": help_cards.all_commands_form(help_list()),
        "form-upload-of-a-message": datasets.upload_modal("C0TICKETS", file_id="F1", filename="tickets.csv"),
        "form-estimate": estimate_form.form(
            "C0TICKETS",
            EstimateChoices(
                ["tickets", "faq"],
                [TARGET, "openai/gpt-4.1"],
                marks={"openai/gpt-4.1": "old price"},
                tried_with={
                    TARGET: tried_text(["live"]),
                    "openai/gpt-4.1": tried_text(["stand-in", "SDK-typed"]),
                },
            ),
        ),
        "form-estimate-before": estimate_form.form(
            "C0TICKETS",
            EstimateChoices(["tickets", "faq"], ["openai/gpt-4.1", TARGET]),
            "faq",
            estimate_form.AskedEstimate(
                4,
                "faq",
                {
                    "current": "gpt-4o",
                    "volume": "10M tokens",
                    "target": TARGET,
                    "bar": "99%",
                    "task": "latency",
                },
            ),
        ),
        "estimate-details": estimates.details_form(estimate_cards.estimate_beside_a_candidate(), TARGET),
        "estimate-details-free": estimates.details_form(builders.estimate_summary(), TARGET),
        "form-estimate-of-one": estimate_form.form(
            "C0TICKETS", EstimateChoices(["tickets", "faq"], [TARGET]), "faq"
        ),
        "form-baseline": evaluations.form(
            "C0TICKETS",
            evaluations.BaselineChoices(["tickets", "faq"], [TARGET, "openai/gpt-4o-mini"], "faq"),
        ),
        "form-baseline-with-rules": evaluations.form(
            "C0TICKETS", evaluations.BaselineChoices(["tickets"], [TARGET], may_overrule=True)
        ),
        "form-baseline-without-models": evaluations.form(
            "C0TICKETS", evaluations.BaselineChoices(["tickets"], [])
        ),
        "form-knowledge": documents.document_form("C0TICKETS", "tickets"),
        "form-knowledge-more": documents.document_form(
            "C0TICKETS",
            "tickets",
            [
                DocumentEntry(measurements.document(), 12_300, DocumentUse((7, 3), is_promoted=True)),
                *[DocumentEntry(measurements.document(), 400, DocumentUse())] * 20,
            ],
        ),
        "form-waiver": data_policy.form(builders.dataset()),
        "form-run-again": run_again.form(
            run_again.EarlierPlan(
                7,
                "tickets",
                "C0TICKETS",
                "20,000 requests",
                "gpt-4o",
                TARGET,
                "epochs=5 lora_r=16",
                "On 383 rows of tickets version 2; run 7 had 300 of version 1.",
            )
        ),
        "form-reject": plans.reject_modal(HASH),
        "plan-details": plan_details.details_form(
            builders.run("awaiting_approval"), builders.advised_plan(), BUDGET
        ),
        "form-approve": plans.approve_modal(
            builders.run("awaiting_approval"), builders.advised_plan(), plans.ONE_APPROVER
        ),
        "form-approve-first-of-two": plans.approve_modal(
            waiting,
            builders.plan(method="grpo", hyperparameters=(("n_epochs", 1), ("samples", 8))),
            plans.Pending(2),
        ),
        "form-approve-free": plans.approve_modal(
            builders.run("awaiting_approval"), builders.free_plan(), plans.ONE_APPROVER
        ),
        **intervention_cards.forms(),
        **labelling_cards.forms(),
        **watch_cards.forms(),
        **live_test_cards.forms(),
        "form-notice": general.notice_modal("Use as training data", "This message has no file."),
    }


@cache
def messages() -> dict[str, Message]:
    modules = (
        dataset_cards, estimate_cards, evaluation_cards, curve_cards, sunset_cards, deployment_cards, sweep_cards,
        sealed_cards, trace_cards, wrong_row_cards, watch_cards, live_test_cards,
        intervention_cards, labelling_cards, promotion_cards, run_cards, result_cards, compared_cards,
    )  # fmt: skip
    return {name: card for module in modules for name, card in module.cards().items()} | _models()


@cache
def views() -> dict[str, Json]:
    return {**_views(), **_details()}


@cache
def payloads() -> dict[str, Json]:
    """As they are sent to Slack. A message has its newest form beside the classic one."""
    return {**{name: message.letter() for name, message in messages().items()}, **views()}


def many_labels(count: int, name: str) -> tuple[LabelCount, ...]:
    return tuple(LabelCount(f"{name} {number}", 10_000 // (number + 1)) for number in range(count))


def _asked_back() -> Refusal:
    refusal = parse(finetune, "estimate tickets current=gpt-4o volume=20000")
    assert isinstance(refusal, Refusal)
    return refusal
