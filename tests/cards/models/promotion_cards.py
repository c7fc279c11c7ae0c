"""Cards of promotions, of objections to them, and the list of models."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from bot.cards.common import general
from bot.cards.common.blocks import Headline, Listing, Message
from bot.cards.models import fallbacks, models, promotion_requests, promotions
from bot.cards.models.actuals import ModelActuals
from bot.cards.models.call_instructions import Calling
from bot.cards.models.fallbacks import FallbackSummary
from bot.cards.models.models import FallbackInUse, InUse, ModelEntry
from bot.cards.models.promotion_requests import RequestSummary
from bot.cards.models.promotions import PromotionSummary
from bot.rules.facts import Looks
from bot.rules.models.promotion import LabelRecall, ModelComparison, PromotionEvidence, find_objections
from bot.rules.permissions import PromotionLimits
from bot.values.evaluations import promotable_candidate
from storage.actuals import ActualMonth
from storage.promotions import Fallback, Promotion, PromotionRequest
from storage.records import Model, Promotable
from tests.cards import builders, measurements
from tests.cards.builders import ANA, BEN, CHEAPER, LOSSES, NOW, full_list
from trainers.evaluation.results import CLASSICAL, ENCODER, Candidate

MODEL = Model("tickets-7", 7, "local", "ft:smollm2-135m:local:tickets:1a2b3c4d", "promoted", NOW)
PROMOTION = Promotion(
    id=2,
    dataset="tickets",
    model="tickets-7",
    candidate=None,
    measurement=None,
    recipe="ab12",
    person=BEN,
    reason=None,
    request=None,
    channel="C0TICKETS",
    at=NOW,
    ended_at=None,
    taken_out_by=None,
    taken_out_because=None,
    instead_of=1,
    returns_to=1,
    is_rollback=False,
    carried_at=None,
    tries=0,
    next_at=0.0,
    trouble=None,
)
TUNED = measurements.candidate("tuned", "local/tickets-7", 190)
FIELDS = measurements.fields_candidate("tuned", "local/tickets-7", 168, 105)
PROVEN = PromotionEvidence(
    TUNED,
    ModelComparison("ten examples, openai/gpt-4o-mini", 0.79, 0.16, 0.1, 0.22, 200),
    "tickets-3",
    ModelComparison("tickets-3", 0.9, 0.05, 0.01, 0.09, 160),
)
AHEAD_IN_FIELDS = ModelComparison("ten examples, openai/gpt-4o-mini", 0.79, 0.05, 0.01, 0.09, 200)
BARELY_BEHIND = replace(builders.NOT_WORSE, score=0.96)
NOT_WORSE = PromotionEvidence(
    TUNED, BARELY_BEHIND, "tickets-3", replace(BARELY_BEHIND, other="tickets-3"), worse=LOSSES
)
LOW = PromotionEvidence(
    TUNED,
    replace(builders.NOT_WORSE, low=-0.044),
    limits=PromotionLimits(floor=0.6),
    low=(LabelRecall("refund", 24, 8), LabelRecall("lost_parcel", 18, 7)),
)
DOUBTFUL = PromotionEvidence(
    TUNED,
    ModelComparison("classical", 0.955, -0.005, -0.04, 0.03, 200),
    "tickets-3",
    ModelComparison("tickets-3", 0.99, -0.04, -0.08, -0.01, 200),
    CHEAPER.headline,
)
TUNED_MODEL = Promotable("tickets-7")
OLDER = Promotable("tickets-3")
PROMPT = promotable_candidate(Candidate("kshot", "openai/gpt-4o-mini", 10), 5)
ENCODER_USED = promotable_candidate(ENCODER, 4)
CALLING = Calling("team/tickets", "http://127.0.0.1:8024/v1", "/var/lib/finetune/data/serving/call.key")
SUMMARY = PromotionSummary(
    PROMOTION, MODEL, PROVEN, OLDER, OLDER, "this machine", has_alias=True, calling=CALLING
)
OF_PROMPT = replace(PROMOTION, model=None, candidate=PROMPT.candidate, measurement=PROMPT.measurement)
PROMPT_SUMMARY = PromotionSummary(
    OF_PROMPT,
    None,
    PromotionEvidence(
        measurements.candidate("kshot", "openai/gpt-4o-mini", 188),
        used="the encoder",
        against_used=ModelComparison("the encoder", 0.86, 0.08, 0.03, 0.13, 200),
        is_tuned=False,
    ),
    ENCODER_USED,
    ENCODER_USED,
    "",
    has_alias=True,
)
BELOW = PromotionEvidence(
    replace(measurements.candidate("classical", None, 168), standing="misses"), bar=0.9, is_tuned=False
)
REQUEST = PromotionRequest(
    id=3,
    dataset="tickets",
    model=None,
    candidate=promotable_candidate(CLASSICAL, 4).candidate,
    measurement=4,
    person=ANA,
    reason="the demo is today",
    channel="C0TICKETS",
    hash="ab12",
    state="asked",
    at=NOW,
    ended_at=None,
)
OTHER = "today's model, gpt-4o"
ACTUALS = ModelActuals(
    (
        ActualMonth(
            "tickets", "tickets-7", "2026-11", 12_480, 1_300_000, 62_000, 3_100_000, OTHER, 41_200_000, NOW
        ),
        ActualMonth("tickets", "tickets-3", "2026-11", 900, 95_000, 4_600, 240_000, OTHER, 190_000, NOW),
        ActualMonth(
            "tickets",
            "tickets-3",
            "2026-10",
            20_000,
            2_100_000,
            99_000,
            None,
            None,
            None,
            NOW,
            failed=12,
            cost_unknown="no_tokens",
            saving_unknown="nothing_before",
        ),
    ),
    "over 12 months it gains about $360 ($210 to $520), after $73 a month for its machine",
)
NOT_COUNTED = ModelActuals(())


FREE = measurements.candidate("classical", None, 176)
STANDS_IN = FallbackSummary(
    Fallback(
        id=1,
        dataset="tickets",
        candidate=str(promotable_candidate(CLASSICAL, 4).candidate),
        measurement=4,
        after_s=None,
        recipe="ab56",
        person=ANA,
        channel="C0TICKETS",
        at=NOW,
        ended_at=None,
        ended_by=None,
        next_at=0.0,
        trouble=None,
    ),
    FREE,
)
IN_TROUBLE = replace(
    STANDS_IN,
    fallback=replace(
        STANDS_IN.fallback, after_s=30.0, trouble="The rows with which it was measured were deleted."
    ),
    shared_provider="OpenAI",
)
MISSES_BAR = PromotionEvidence(replace(FREE, standing="misses"), is_tuned=False)


def cards() -> dict[str, Message]:
    synced = replace(PROMOTION, carried_at=NOW + 2)
    busy = replace(
        PROMOTION, trouble="pointing 'team/tickets' on local: no answer in time. It is busy or stuck."
    )
    lost = replace(synced, recipe=None, trouble="The rows that tickets-7 was trained on were deleted.")
    because = replace(synced, reason="half the price at the same quality")
    first = replace(synced, instead_of=None, returns_to=None)
    back = replace(synced, is_rollback=True, reason="it answers in French")
    hosted = replace(MODEL, provider="openai", provider_model="ft:gpt-4.1-mini-2025-04-14:acme:tickets:Bx9Z")
    old = replace(MODEL, name="tickets-3", state="retired")
    declined = replace(REQUEST, state="declined")
    outdated = replace(REQUEST, state="outdated")
    listed = full_list(
        ModelEntry(
            MODEL,
            "tickets",
            2,
            "smollm2-135m",
            TUNED,
            synced,
            actuals=ACTUALS,
            ancestors=("tickets-3", "tickets-1"),
        ),
        ModelEntry(
            old,
            "tickets",
            1,
            "smollm2-135m",
            measurements.candidate("tuned", "local/tickets-3", 180),
            None,
        ),
        ModelEntry(replace(hosted, state="candidate", gone_at=NOW), "faq", 1, "gpt-4.1-mini", None, None),
    )
    used = full_list(InUse(OF_PROMPT, PROMPT_SUMMARY.proof.candidate, unanswered="it is not published yet."))
    return {
        "promoted": promotions.promotion_card(SUMMARY),
        "promoted-and-carried": promotions.promotion_card(replace(SUMMARY, promotion=synced)),
        "promoted-not-carried": promotions.promotion_card(replace(SUMMARY, promotion=busy)),
        "promoted-with-fallback": promotions.promotion_card(replace(PROMPT_SUMMARY, fallback=STANDS_IN)),
        "promoted-with-fallback-in-trouble": promotions.promotion_card(
            replace(PROMPT_SUMMARY, fallback=IN_TROUBLE)
        ),
        "fallback-chosen": fallbacks.chosen_message(IN_TROUBLE),
        "fallback-ended": fallbacks.ended_message(STANDS_IN),
        "fallback-refused": general.text_message(
            promotion_requests.fallback_refusal(
                STANDS_IN.fallback.what, "tickets", MISSES_BAR, find_objections(MISSES_BAR)
            )
        ),
        "promoted-recipe-lost": promotions.promotion_card(replace(SUMMARY, promotion=lost)),
        "promoted-all-the-same": promotions.promotion_card(
            replace(SUMMARY, promotion=because, proof=DOUBTFUL)
        ),
        "promoted-first": promotions.promotion_card(
            replace(
                SUMMARY,
                promotion=first,
                before=None,
                earlier=None,
                proof=PromotionEvidence(TUNED, PROVEN.best),
            )
        ),
        "promoted-looked-at": promotions.promotion_card(
            replace(SUMMARY, promotion=synced, looks=Looks(27, 200))
        ),
        "promoted-fields": promotions.promotion_card(
            replace(SUMMARY, promotion=synced, proof=PromotionEvidence(FIELDS, AHEAD_IN_FIELDS))
        ),
        "promoted-by-sealed": promotions.promotion_card(
            replace(SUMMARY, promotion=synced, sealed=promotions.SealedProof(9, TUNED, PROVEN.best, 1))
        ),
        "sealed-begun": promotions.sealed_test_begun(measurements.measurement()),
        "promotion-details": _details(ACTUALS, Looks(3, 200)),
        "promotion-details-hosted": _details(NOT_COUNTED, Looks(26, 200)),
        "promoted-unmeasured": promotions.promotion_card(
            replace(SUMMARY, promotion=because, proof=PromotionEvidence(None))
        ),
        "promoted-hosted": promotions.promotion_card(
            replace(
                SUMMARY, model=hosted, has_alias=False, provider="OpenAI", left=("this machine", "tickets-3")
            )
        ),
        "promoted-not-worse": promotions.promotion_card(replace(SUMMARY, promotion=synced, proof=NOT_WORSE)),
        "promotion-refused-floor": general.text_message(
            promotion_requests.promotion_refusal(TUNED_MODEL, "tickets", LOW, find_objections(LOW))
        ),
        "promoted-before": promotions.promotion_card(
            replace(SUMMARY, promotion=replace(synced, ended_at=NOW + 90))
        ),
        "promoted-candidate": promotions.promotion_card(PROMPT_SUMMARY),
        "promoted-candidate-carried": promotions.promotion_card(
            replace(PROMPT_SUMMARY, promotion=replace(OF_PROMPT, carried_at=NOW + 2), calling=CALLING)
        ),
        "promoted-approved": promotions.promotion_card(
            replace(SUMMARY, promotion=because, proof=DOUBTFUL, approved_by=(ANA,))
        ),
        "taken-out-of-use": promotions.promotion_card(
            replace(
                PROMPT_SUMMARY,
                promotion=replace(
                    OF_PROMPT, ended_at=NOW + 90, taken_out_by=ANA, taken_out_because="it answers in French"
                ),
            )
        ),
        "promotion-requested": promotion_requests.request_card(
            RequestSummary(REQUEST, BELOW, find_objections(BELOW), None, 1, others=(f"<@{BEN}>",))
        ),
        "promotion-requested-instead": promotion_requests.request_card(
            RequestSummary(
                replace(REQUEST, model="tickets-7", candidate=None, measurement=None),
                DOUBTFUL,
                find_objections(DOUBTFUL),
                OLDER,
                2,
                approved_by=(BEN,),
            )
        ),
        "promotion-request-declined": promotion_requests.ended_card(
            declined, promotion_requests.outcome_text(declined, BEN, "wait for the next version")
        ),
        "promotion-request-outdated": promotion_requests.ended_card(
            outdated, promotion_requests.outcome_text(outdated, None)
        ),
        "promotion-request-told": promotion_requests.outcome_notice(
            declined, BEN, "wait for the next version"
        ),
        "promotion-request-sent": general.text_message(
            promotion_requests.request_sent(RequestSummary(REQUEST, BELOW, find_objections(BELOW), None, 1))
        ),
        "promotion-refused-below-bar": general.text_message(
            promotion_requests.promotion_refusal(REQUEST.what, "tickets", BELOW, find_objections(BELOW))
        ),
        "rolled-back": promotions.promotion_card(
            replace(SUMMARY, promotion=back, before=Promotable("tickets-8"), earlier=None)
        ),
        "promotion-refused": general.text_message(
            promotion_requests.promotion_refusal(TUNED_MODEL, "tickets", DOUBTFUL, find_objections(DOUBTFUL))
        ),
        "promotion-elsewhere": general.text_message(promotions.card_location(SUMMARY)),
        "promoted-lost": promotions.model_lost(MODEL, "tickets", "OpenAI"),
        "promoted-back": promotions.model_back(MODEL, "tickets", "OpenAI"),
        "promoted-strayed": promotions.alias_mismatch(
            "tickets", MODEL, "ft:smollm2-135m:local:tickets:99999999", "this machine"
        ),
        "model-list": models.listing(listed, used, CALLING.base_url),
        "model-list-in-full": models.listing(listed, used, CALLING.base_url, is_full=True),
        "model-list-with-fallbacks": models.listing(
            full_list(),
            full_list(
                InUse(
                    OF_PROMPT, PROMPT_SUMMARY.proof.candidate, fallback=FallbackInUse(STANDS_IN.fallback.what)
                ),
                InUse(
                    OF_PROMPT,
                    PROMPT_SUMMARY.proof.candidate,
                    fallback=FallbackInUse(
                        STANDS_IN.fallback.what, "its model ended at OpenAI on 2027-01-14."
                    ),
                ),
            ),
            CALLING.base_url,
        ),
        "model-list-empty": models.listing(full_list()),
    }


def _details(actuals: ModelActuals, looks: Looks) -> Message:
    return Message("In use", (Headline("In use"), *promotions.details(actuals, looks)))


def in_use() -> Listing[InUse]:
    other = replace(PROMOTION, id=3, dataset="faq", model="faq-4", person=ANA)
    return full_list(
        InUse(other, None, actuals=NOT_COUNTED),
        InUse(PROMOTION, TUNED, ends=date(2027, 1, 14), actuals=ACTUALS),
    )
