"""Cards of models that are put to work, what speaks against one, and the list of all."""

from __future__ import annotations

from dataclasses import replace

from bot.decisions.promoting import Against, Proof, doubts
from bot.views import general, models, promoting, results
from bot.views.blocks import Message
from bot.views.models import Shelved
from bot.views.promoting import InUse
from storage.promotions import Promotion
from storage.records import Model
from tests.views import made, measured
from tests.views.made import ANA, BEN, NOW

MODEL = Model("tickets-7", 7, "local", "ft:smollm2-135m:local:tickets:1a2b3c4d", "promoted", NOW)
STANDING = Promotion(
    id=2,
    dataset="tickets",
    model="tickets-7",
    person=BEN,
    reason=None,
    channel="C0TICKETS",
    at=NOW,
    ended_at=None,
    instead_of=1,
    returns_to=1,
    is_rollback=False,
    carried_at=None,
    tries=0,
    next_at=0.0,
    trouble=None,
)
RUNG = measured.rung("tuned", "local/tickets-7", 190)
PROVEN = Proof(
    RUNG,
    Against("ten examples, openai/gpt-4o-mini", 0.79, 0.16, 0.1, 0.22, 200),
    "tickets-3",
    Against("tickets-3", 0.9, 0.05, 0.01, 0.09, 160),
)
DOUBTED = Proof(
    RUNG,
    Against("classical", 0.955, -0.005, -0.04, 0.03, 200),
    "tickets-3",
    Against("tickets-3", 0.99, -0.04, -0.08, -0.01, 200),
    made.CHEAPER.headline,
)
SEEN = InUse(STANDING, MODEL, PROVEN, "tickets-3", "tickets-3", "this machine", has_alias=True)


def cards() -> dict[str, Message]:
    carried = replace(STANDING, carried_at=NOW + 2)
    busy = replace(
        STANDING, trouble="pointing 'team/tickets' on local: no answer in time. It is busy or stuck."
    )
    because = replace(carried, reason="half the price at the same quality")
    first = replace(carried, instead_of=None, returns_to=None)
    back = replace(carried, is_rollback=True, reason="it answers in French")
    hosted = replace(MODEL, provider="openai", provider_model="ft:gpt-4.1-mini-2025-04-14:acme:tickets:Bx9Z")
    old = replace(MODEL, name="tickets-3", state="retired")
    return {
        "promoted": promoting.card(SEEN),
        "promoted-and-carried": promoting.card(replace(SEEN, promotion=carried)),
        "promoted-not-carried": promoting.card(replace(SEEN, promotion=busy)),
        "promoted-all-the-same": promoting.card(replace(SEEN, promotion=because, proof=DOUBTED)),
        "promoted-first": promoting.card(
            replace(SEEN, promotion=first, before=None, earlier=None, proof=Proof(RUNG, PROVEN.best))
        ),
        "promoted-unmeasured": promoting.card(replace(SEEN, promotion=because, proof=Proof(None))),
        "promoted-hosted": promoting.card(
            replace(
                SEEN, model=hosted, has_alias=False, provider="OpenAI", left=("this machine", "tickets-3")
            )
        ),
        "promoted-before": promoting.card(replace(SEEN, promotion=replace(carried, ended_at=NOW + 90))),
        "rolled-back": promoting.card(replace(SEEN, promotion=back, before="tickets-8", earlier=None)),
        "promotion-refused": general.sentence(promoting.refused(MODEL, DOUBTED, doubts(DOUBTED))),
        "promotion-elsewhere": general.sentence(promoting.whereabouts(SEEN)),
        "promoted-lost": promoting.lost(MODEL, "tickets", "OpenAI"),
        "promoted-strayed": promoting.strayed(
            "tickets", MODEL, "ft:smollm2-135m:local:tickets:99999999", "this machine"
        ),
        "model-list": models.listing(
            [
                Shelved(MODEL, "tickets", 2, "smollm2-135m", RUNG, carried),
                Shelved(
                    old, "tickets", 1, "smollm2-135m", measured.rung("tuned", "local/tickets-3", 180), None
                ),
                Shelved(
                    replace(hosted, state="candidate", gone_at=NOW), "faq", 1, "gpt-4.1-mini", None, None
                ),
            ]
        ),
        "model-list-empty": models.listing([]),
        "result-to-be-used": results.card(
            made.run("done"),
            made.plan(),
            made.result(beside=made.beside(184, 190), advice=made.GO),
            may_be_used=True,
        ),
    }


def in_use() -> list[Shelved]:
    """For the overview."""
    other = replace(STANDING, id=3, dataset="faq", person=ANA)
    return [
        Shelved(replace(MODEL, name="faq-4"), "faq", 1, "smollm2-135m", None, other),
        Shelved(MODEL, "tickets", 2, "smollm2-135m", RUNG, STANDING),
    ]
