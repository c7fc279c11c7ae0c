"""The `/finetune …` commands about models and what is in use: listed, asked, judged, deployed, rolled back and
watched."""

from __future__ import annotations

from typing import Any, Literal

import click

from bot.cards.models import fallbacks as fallback_cards
from bot.cards.models import models as model_cards
from bot.cards.models import tried_answers as answer_cards
from bot.cards.monitoring import live_tests as live_test_cards
from bot.command_options import (
    ALL,
    CANDIDATE_MODEL,
    CANDIDATE_SHOTS,
    DATASET,
    DESTINATION,
    KIND,
    MODEL,
    PROMPT,
    REASON,
    SAMPLE,
    SECONDS,
    TextType,
    read_part,
    shown,
)
from bot.command_parser import Registry
from bot.rules.units import Misread
from bot.services.models import models, promotions
from bot.services.monitoring import live_tests, watches, weeks
from bot.services.monitoring.watches import WatchRequest
from bot.services.serving import fallbacks, questions, tried_answers
from bot.slack.replies import Call, Reply, card_or_refusal, promotion_reply
from bot.values.requests import BeginLiveTest, ChooseFallback, Promote
from bot.values.runs import Refusal


def read_canary(text: str) -> float | Misread:
    return read_part(text, "the share of the conversations that it answers, like 10%")


def read_every(text: str) -> Literal["month", "never"] | Misread:
    match text.lower():
        case "month" | "never" as every:
            return every
    return Misread(f"“{shown(text)}” should be month or never.")


CANARY = TextType("share", read_canary)
EVERY = TextType("month", read_every)
registry = Registry()


@registry.command(
    "models",
    help="the tuned models, and what is in use for which dataset; with `all`, ended ones too, and more of each",
    needs=("read",),
    usage="[all]",
)
@click.argument("extent", type=ALL, required=False)
def list_models(call: Call, extent: Literal["all"] | None) -> Reply:
    tuned, used = models.listing(call.context, call.person, call.channel)
    base_url = call.context.settings.serving.base_url
    is_answering = call.context.answers_programs()
    return model_cards.listing(
        tuned, used, base_url, answers_programs=is_answering, is_full=extent is not None
    )


@registry.command(
    "try",
    help="ask a tuned model something, or with a dataset's name what is in use for it",
    needs=("try",),
    usage="NAME your text",
)
@click.argument("model", type=MODEL)
@click.argument("text", type=PROMPT)
def try_model(call: Call, model: str, text: str) -> Reply:
    question = questions.ask(call.context, model, text, call.person, call.channel)
    return card_or_refusal(question, answer_cards.pending_card)


@registry.command(
    "pairs",
    help="make a dataset of preference pairs from people's verdicts on a dataset's models",
    needs=("read", "upload"),
)
@click.argument("dataset", type=DATASET)
def make_pairs(call: Call, dataset: str) -> Reply:
    pairs = tried_answers.make_pairs(call.context, dataset, call.person, call.channel)
    if isinstance(pairs, Refusal):
        return pairs
    notes = []
    if pairs.empty:
        notes.append(answer_cards.empty_answers(pairs.empty))
    if pairs.held:
        notes.append(answer_cards.held_out_pairs(dataset, pairs.held))
    return " ".join(notes) or None


@registry.command(
    "promote",
    help="deploy a tuned model by its name, or with a dataset's name a candidate that was measured on it; what was in"
    " use is kept for a rollback",
    needs=("promote",),
    usage="NAME [encoder model=openai/gpt-4o-mini shots=10 because=why it should be used anyway]",
)
@click.argument("name", type=MODEL)
@click.argument("kind", type=KIND, required=False)
@CANDIDATE_MODEL
@CANDIDATE_SHOTS
@click.option(
    "--because",
    type=REASON,
    help="Why to use it although the evidence doesn't support it; other people have to approve that.",
)
def promote(call: Call, **values: Any) -> Reply:
    promoted = promotions.promote(call.context, Promote(**values), call.person, call.channel)
    return promotion_reply(call, promoted)


@registry.command(
    "rollback",
    help="go back to what was deployed before; the first one is taken out of use",
    needs=("rollback",),
    usage="DATASET [to=nothing because=why]",
)
@click.argument("dataset", type=DATASET)
@click.option("--to", type=DESTINATION, help="nothing: take it out of use, whatever was in use before.")
@click.option("--because", type=REASON, help="Why; shown to the team.")
def roll_back(call: Call, dataset: str, to: str | None, because: str | None) -> Reply:
    standing = promotions.roll_back(
        call.context, dataset, because, call.person, call.channel, to_nothing=to is not None
    )
    return promotion_reply(call, standing)


@registry.command(
    "fallback",
    help="have a measured candidate answer programs when what is in use can't, such as in a provider's outage",
    needs=("promote",),
    usage="DATASET [encoder model=openai/gpt-4o-mini shots=10 after=30 to=nothing]",
)
@click.argument("dataset", type=DATASET)
@click.argument("kind", type=KIND, required=False)
@CANDIDATE_MODEL
@CANDIDATE_SHOTS
@click.option("--after", type=SECONDS, help="Also once it has given no answer for so many seconds.")
@click.option("--to", type=DESTINATION, help="nothing: no longer have anything answer then.")
def fallback(call: Call, dataset: str, after: int | None, to: str | None, **values: Any) -> Reply:
    if to is not None:
        over = fallbacks.end(call.context, dataset, call.person, call.channel)
        return card_or_refusal(over, fallback_cards.ended_message)
    wanted = ChooseFallback(Promote(dataset, **values), after)
    chosen = fallbacks.choose(call.context, wanted, call.person, call.channel)
    return card_or_refusal(chosen, fallback_cards.chosen_message)


@registry.command(
    "test",
    help="try something on live calls beside what is in use: sampled calls are put to it too, and no program sees that",
    needs=("measure",),
    usage="NAME [encoder model=openai/gpt-4o-mini shots=10 canary=10% to=nothing]",
)
@click.argument("name", type=MODEL)
@click.argument("kind", type=KIND, required=False)
@CANDIDATE_MODEL
@CANDIDATE_SHOTS
@click.option(
    "--canary", type=CANARY, help="Have it answer this share of the conversations itself, like 10%."
)
@click.option("--to", type=DESTINATION, help="nothing: no longer try anything on the calls of this dataset.")
def try_on_calls(call: Call, canary: float | None, to: str | None, **values: Any) -> Reply:
    if to is not None:
        return live_tests.end(call.context, values["name"], call.person, call.channel)
    wanted = BeginLiveTest(Promote(**values), canary or 0.0)
    test = live_tests.begin(call.context, wanted, call.person, call.channel)
    if isinstance(test, Refusal):
        return test
    if test.channel == call.channel:
        return None
    return live_test_cards.begun_text(test)


@registry.command(
    "watch",
    help="how what is in use did this week; every Monday in its channel, once you have it watched",
    needs=("read", "measure"),
    usage="DATASET [sample=5% every=month to=nothing]",
)
@click.argument("dataset", type=DATASET)
@click.option("--sample", type=SAMPLE, help="Have it watched, with this share of the calls sampled, like 5%.")
@click.option(
    "--every",
    type=EVERY,
    help="month: have what is in use measured again with the first card of each month; never: no longer.",
)
@click.option("--to", type=DESTINATION, help="nothing: no longer watch it, and delete the sampled calls.")
def watch(
    call: Call, dataset: str, sample: float | None, every: Literal["month", "never"] | None, to: str | None
) -> Reply:
    if to is not None:
        return watches.end(call.context, dataset, call.person, call.channel)
    if sample is not None or every is not None:
        return watches.begin(call.context, WatchRequest(dataset, sample, every), call.person, call.channel)
    week = weeks.show_now(call.context, dataset, call.person, call.channel)
    if week is None:
        return watches.form(call.context, dataset, call.person, call.channel)
    return week
