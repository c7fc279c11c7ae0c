"""Candidates that were measured are put to work without training: by one click where the evidence supports it, by a
request that somebody else approves where it doesn't, and back again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from bot.cards.common import advice
from bot.reconciler import maintain
from bot.rules import units
from bot.rules.models.promotion import PromotionEvidence, evidence_hash
from bot.services import deletion_scope
from bot.services.models import promotion_requests, promotions, sunsets
from bot.services.serving import alias_sync
from bot.values.evaluations import ComparisonPlan, promotable_candidate, promoted_candidate
from bot.values.requests import Delete
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from storage.promotions import NewPromotion, Promotion, PromotionRequest
from storage.records import Promotable
from tests.bot.measurements import PRICES, measure
from tests.bot.props import LABELS, tickets_csv
from tests.bot.saved_worlds import reached_once
from tests.bot.world import CLEO, DORA, PRIVATE, MakeWorld, Rules, World
from trainers.evaluation.results import CLASSICAL, Candidate
from trainers.recipes import usage
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.prompts import write_prompt
from trainers.recipes.usage import Usage, UsageKey
from trainers.recipes.values import Published

LINE = "/finetune baseline tickets candidates=classical,zero models=acme/acme-small"
ZERO = Candidate("zero", "acme/acme-small")
DAY_S = 86_400
WHY = "because=the demo is today"
APPROVE = "approve_promotion"
STAYS = '[[policy.data]]\nname = "stays here"\nlevel = "soft"\nproviders = ["local"]\n'


@reached_once
def seed_measured(world: World) -> None:
    """The classical model and a prompt were measured on 18 held-out rows."""
    world.upload_and_check(tickets_csv(90))
    measure(world, LINE)


def answer_right(model: str, messages: list[dict[str, Any]]) -> str:
    return next((label for label in LABELS if label in messages[-1]["content"]), "billing")


@pytest.fixture
def measured(make_world: MakeWorld) -> World:
    world = make_world(Rules(more=PRICES))
    world.provider.service.answer = answer_right
    seed_measured(world)
    return world


@pytest.fixture
def requested(measured: World) -> World:
    """The bar is out of reach, and Ben has asked to use the classical model all the same."""
    set_bar(measured, 0.999)
    assert measured.type(f"/finetune promote tickets classical {WHY}", user=BEN) == ""
    measured.send()
    return measured


def set_bar(world: World, bar: float) -> None:
    dataset = world.store.datasets.newest("tickets")
    assert dataset is not None
    world.store.dataset_settings.set(dataset.name, by=ANA.id, now=world.clock, bar=bar)


def in_use(world: World) -> Candidate | None:
    promotion = standing(world)
    return promoted_candidate(promotion.what) if promotion else None


def standing(world: World) -> Promotion | None:
    promotion: Promotion | None = world.store.promotions.current("tickets")
    return promotion


def published(world: World) -> Published | None:
    return RecipeFolder(world.service.settings.recipes).published("team/tickets")


def deploy_against_the_evidence(world: World) -> None:
    """The classical model, which is not shown to be as good as what is in use."""
    assert world.type(f"/finetune promote tickets classical {WHY}", user=BEN) == ""
    world.send()
    world.click(CLEO, APPROVE)
    world.send()
    assert in_use(world) == CLASSICAL


def request(world: World, number: int = 1) -> PromotionRequest:
    request: PromotionRequest | None = world.store.promotion_requests.get(number)
    assert request is not None
    return request


@pytest.mark.deep
def test_use_it_is_the_first_button_and_deploys_what_meets_the_bar(measured: World) -> None:
    world = measured
    assert "Only an approver" in world.click_and_read(ANA, advice.USE)
    world.click(BEN, advice.USE)
    world.send()
    assert in_use(world) == CLASSICAL
    card = world.find_message("The classical model is in use for tickets", f"<@{BEN.id}> deployed it.")
    assert "Programs that call `team/tickets`" in card and "Take out of use" in card
    world.find_message("Measurement m1", "The classical model has been in use since")
    assert not world.has_button(advice.USE)
    (entry,) = [entry for entry in world.store.audit.entries("measurement 1") if entry.action == "promote"]
    assert entry.who == BEN.id and "the classical model for tickets: " in entry.detail

    for line in ("/finetune models", "/finetune status"):
        assert "The classical model for `tickets` since" in world.type(line), line
    assert "already in use for `tickets`" in world.type("/finetune promote tickets classical", user=BEN)
    # A later measurement of the same name changes nothing that is in use.
    set_bar(world, 0.9)
    world.type("/finetune baseline tickets candidates=classical")
    world.tick_until(lambda: world.store.measurements.get(2).state == "done", "m2")
    promotion = standing(world)
    assert promotion is not None and promotion.measurement == 1


def test_try_asks_what_is_in_use_with_the_recipe_that_programs_get(measured: World) -> None:
    world = measured
    sent = []

    def answer_and_note(model: str, messages: list[dict[str, Any]]) -> str:
        sent.append(messages)
        return answer_right(model, messages)

    world.rules.provider_is_remote = True
    world.restart()
    world.provider.service.answer = answer_and_note
    world.type("/finetune promote tickets zero", user=BEN)
    assert "is being made ready for `tickets`" in world.type("/finetune try tickets a refund please")
    world.tick_until(lambda: published(world) is not None, "the recipe")
    assert "an e-mail address" in world.type("/finetune try tickets refund ada.lovelace@gmail.com")
    spent = world.store.committed(units.month_of(world.clock))
    assert "Asking `team/tickets`" in world.type("/finetune try tickets a question about billing")
    reserved = world.store.committed(units.month_of(world.clock)) - spent
    answer = world.tick_until_answered()
    assert ">billing" in answer and "The prompt alone on acme/acme-small: " in answer
    assert 0 < world.store.committed(units.month_of(world.clock)) - spent < reserved
    promotion = standing(world)
    assert promotion is not None
    recipe = RecipeFolder(world.service.settings.recipes).read(promotion.recipe or "")
    assert recipe is not None
    assert sent == [write_prompt(recipe, [{"role": "user", "content": "a question about billing"}])]

    deploy_against_the_evidence(world)
    world.tick_until(lambda: (now := standing(world)) is not None and now.recipe is not None, "the recipe")
    spent = world.store.committed(units.month_of(world.clock))
    world.type("/finetune try tickets a question about refund")
    answer = world.tick_until_answered()
    assert ">refund" in answer and "The classical model, which costs nothing" in answer
    assert world.store.committed(units.month_of(world.clock)) == spent and len(sent) == 1


def test_a_command_names_the_candidate_and_lists_what_there_is(measured: World) -> None:
    world = measured
    listed = world.type("/finetune promote tickets", user=BEN)
    assert "Which candidate of it?" in listed
    assert "`/finetune promote tickets classical`" in listed
    assert "`/finetune promote tickets zero model=acme/acme-small`" in listed
    refusal = world.type("/finetune promote tickets encoder", user=BEN)
    assert "was not measured on `tickets`" in refusal and "promote tickets zero" in refusal
    assert "no dataset `ticket`" in world.type("/finetune promote ticket zero", user=BEN)
    assert world.type("/finetune promote tickets zero model=acme-small", user=BEN) == ""
    assert in_use(world) == ZERO


def test_against_the_bar_it_takes_a_reason_and_another_person(measured: World) -> None:
    world = measured
    set_bar(world, 0.999)
    refusal = world.type("/finetune promote tickets classical", user=BEN)
    assert "bar of 99.9%*" in refusal and "Another person has to approve that" in refusal
    assert "at least 3 words" in world.type("/finetune promote tickets classical because=demo", user=BEN)
    assert world.type(f"/finetune promote tickets classical {WHY}", user=BEN) == ""
    world.send()
    world.find_message(
        "deploy the classical model for tickets?", f"<@{BEN.id}> asks to deploy it", "the demo is"
    )
    again = world.type(f"/finetune promote tickets classical {WHY}", user=BEN)
    assert "asked for the same already" in again
    for person, words in ((BEN, "You requested this"), (DORA, "You uploaded"), (ANA, "Only an approver")):
        assert words in world.click_and_read(person, APPROVE), person
    assert standing(world) is None

    world.click(CLEO, APPROVE)
    world.send()
    promotion = standing(world)
    assert promotion is not None and (promotion.person, promotion.request) == (BEN.id, 1)
    world.find_message("The classical model is in use", f"approved by <@{CLEO.id}>", "the demo is today")
    world.find_message("The classical model for tickets: approved", f"<@{CLEO.id}> approved it")
    assert "You asked to deploy the classical model" in world.dms(BEN)[-1]
    entries = [(entry.action, entry.who) for entry in world.store.audit.entries("measurement 1")]
    assert entries[-3:] == [("ask to promote", BEN.id), ("approve", CLEO.id), ("promote", BEN.id)]
    assert "this request is already decided" in world.type("/finetune status") or not world.has_button(
        APPROVE
    )


def test_a_freeze_stops_what_the_evidence_supports_what_is_asked_for_and_its_approval(
    requested: World,
) -> None:
    world = requested
    world.type("/finetune freeze the answers look odd", user=BEN)
    assert "Nothing else is deployed now" in world.click_and_read(CLEO, APPROVE)
    assert in_use(world) is None and request(world).state == "asked"
    assert "Nothing else is deployed now" in world.type(f"/finetune promote tickets zero {WHY}", user=BEN)
    assert len(world.store.promotion_requests.open()) == 1
    set_bar(world, 0.5)
    assert "Nothing else is deployed now" in world.type("/finetune promote tickets zero", user=BEN)
    assert in_use(world) is None


def test_of_two_approvers_at_once_one_deploys(requested: World) -> None:
    context = requested.service.context
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(promotion_requests.approve, context, 1, person.id) for person in (CLEO, CLEO)]
    refusals = [result for task in tasks if isinstance(result := task.result(), Refusal)]
    assert len(refusals) == 1 and "already decided" in refusals[0].text
    assert len(requested.store.database.rows("SELECT id FROM promotions")) == 1


@pytest.mark.deep
def test_two_approvers_are_needed_where_the_policy_says_so(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES, quorum=2, approvers=(ANA.id, BEN.id, CLEO.id)))
    seed_measured(world)
    set_bar(world, 0.999)
    world.type(f"/finetune promote tickets classical {WHY}", user=BEN)
    world.send()
    world.click(CLEO, APPROVE)
    world.send()
    assert standing(world) is None
    world.find_message("deploy the classical model for tickets?", f"Approved by <@{CLEO.id}>")
    assert "already approved" in world.click_and_read(CLEO, APPROVE)
    world.click(ANA, APPROVE)
    assert in_use(world) == CLASSICAL


def test_an_approval_is_for_what_the_card_showed(requested: World) -> None:
    """Something else was deployed since, or the evidence has changed."""
    world = requested
    set_bar(world, 0.99)
    refusal = world.click_and_read(CLEO, APPROVE)
    assert "the evidence has changed" in refusal and request(world).state == "outdated"
    world.type(f"/finetune promote tickets classical {WHY}", user=BEN)
    set_bar(world, 0.5)
    assert world.type("/finetune promote tickets zero", user=BEN) == ""
    world.send()
    assert request(world, 2).state == "outdated" and in_use(world) == ZERO
    refused = promotion_requests.approve(world.service.context, 2, CLEO.id)
    assert isinstance(refused, Refusal) and "already decided: out of date" in refused.text
    world.find_message("The classical model for tickets: out of date", "Nothing was deployed by it")


def test_who_asked_needs_the_right_until_the_approval(requested: World) -> None:
    requested.rules.approvers = (CLEO.id,)
    requested.restart()
    assert f"<@{BEN.id}> may not deploy anything any more" in requested.click_and_read(CLEO, APPROVE)
    assert standing(requested) is None and request(requested).state == "asked"


def test_a_request_is_declined_withdrawn_or_expires(requested: World) -> None:
    world = requested
    world.click(CLEO, "decline_promotion")
    assert world.slack.submit_modal(CLEO.id, {"reason": "wait for the next version"}).closed
    world.send()
    world.find_message("The classical model for tickets: declined", "wait for the next version")
    assert "declined it: wait for the next version" in world.dms(BEN)[-1]

    world.type(f"/finetune promote tickets classical {WHY}", user=BEN)
    world.send()
    world.click(BEN, "decline_promotion")
    assert request(world, 2).state == "withdrawn"
    world.type(f"/finetune promote tickets classical {WHY}", user=BEN)
    world.pass_time(25 * 3600)
    assert "has expired" in str(promotion_requests.approve(world.service.context, 3, CLEO.id))
    world.tick()
    assert request(world, 3).state == "expired" and standing(world) is None


def test_a_rollback_of_the_first_takes_it_out_of_use(measured: World) -> None:
    world = measured
    world.type("/finetune promote tickets zero", user=BEN)
    deploy_against_the_evidence(world)
    world.type("/finetune rollback tickets", user=CLEO)
    world.send()
    assert in_use(world) == ZERO
    world.find_message(
        "The prompt alone on acme/acme-small is in use again", "rolled back from the classical model"
    )
    assert "Only an approver" in world.click_and_read(ANA, "roll_back")
    world.click(CLEO, "roll_back")
    world.tick()
    assert standing(world) is None
    world.find_message(
        "The prompt alone on acme/acme-small was in use", f"*Taken out of use* by <@{CLEO.id}>"
    )
    world.find_message(
        f"<@{CLEO.id}> took the prompt alone on acme/acme-small out of use",
        "`team/tickets` get an error (404)",
    )
    (entry,) = [e for e in world.store.audit.entries("measurement 1") if e.action == "take out of use"]
    assert entry.who == CLEO.id
    answer = published(world)
    assert answer is not None and answer.unavailable is not None and answer.unavailable.status == 404
    assert f"was taken out of use on {units.day_of(world.clock)}. " in answer.unavailable.message
    assert "Nothing is in use for `tickets`" in world.type("/finetune rollback tickets", user=CLEO)
    assert world.has_button(advice.USE), "its measurement offers it again"

    world.type("/finetune promote tickets zero", user=BEN)
    world.type("/finetune rollback tickets to=nothing because=it answers in French", user=CLEO)
    last = world.store.promotions.last("tickets")
    assert (last.taken_out_by, last.taken_out_because) == (CLEO.id, "it answers in French")


def test_what_cannot_be_read_or_rebuilt_is_not_deployed(measured: World) -> None:
    world = measured
    result = world.store.measurements.get(1).result
    newer = result.replace('"classical"', '"oracle"')
    world.store.database.change("UPDATE measurements SET result = ?", (newer,))
    refused = promotions.promote_candidate(world.service.context, "1 classical", BEN.id)
    assert isinstance(refused, Refusal) and "stored by a newer version" in refused.text
    world.store.database.change("UPDATE measurements SET result = ?", (result,))
    unknown = promotions.promote_candidate(world.service.context, "1 encoder", BEN.id)
    assert isinstance(unknown, Refusal) and "knows no such candidate" in unknown.text

    report = world.dataset().report or ""
    for path in world.service.settings.files.iterdir():
        if path.stem in report:
            path.unlink()
    refusal = world.type("/finetune promote tickets classical", user=BEN)
    assert "were deleted" in refusal and standing(world) is None


def test_the_card_says_why_a_lost_recipe_is_not_built_again(measured: World) -> None:
    world = measured
    world.type("/finetune promote tickets classical", user=BEN)
    world.tick_until(lambda: published(world) is not None, "the recipe")
    promotion = standing(world)
    assert promotion is not None
    settings = world.service.settings
    RecipeFolder(settings.recipes).remove(promotion.recipe or "")
    plan = ComparisonPlan.from_json(world.store.measurements.get(1).plan)
    rows = settings.files / f"{plan.train_sha256}.jsonl"
    content = rows.read_bytes()
    rows.unlink()
    world.tick_until(lambda: (now := standing(world)) is not None and now.trouble is not None, "the trouble")
    world.send()
    card = world.find_message("The classical model is in use")
    assert "It can't be published yet, so the bot keeps trying. Reason: The rows or documents" in card
    assert "get it as soon as it is published" in card

    rows.write_bytes(content)
    world.pass_time(alias_sync.REFUSED_S)
    world.tick_until(lambda: (now := standing(world)) is not None and now.recipe is not None, "the recipe")
    world.send()
    card = world.find_message("The classical model is in use")
    assert "now get it" in card and "keeps trying" not in card


def test_names_that_the_database_does_not_know_are_withdrawn(measured: World) -> None:
    world = measured
    world.type("/finetune promote tickets classical", user=BEN)
    folder = RecipeFolder(world.service.settings.recipes)
    # A backup from before the first promotion was restored.
    folder.publish(Published("team/letters", "ab12", promotion=7))
    world.tick_until(lambda: published(world) is not None, "the recipe")
    assert folder.published_names() == {"team/tickets"}


@pytest.mark.deep
def test_a_rollback_keeps_the_reason_that_overrode_a_data_rule(measured: World) -> None:
    world = measured
    world.rules.more = f"{PRICES}{STAYS}"
    world.restart()
    assert "because=" in world.type("/finetune promote tickets zero", user=BEN)
    assert world.type(f"/finetune promote tickets zero {WHY}", user=BEN) == ""
    deploy_against_the_evidence(world)
    world.type("/finetune rollback tickets because=no", user=CLEO)
    assert in_use(world) == ZERO
    deploy_against_the_evidence(world)
    world.type("/finetune rollback tickets", user=CLEO)
    assert in_use(world) == ZERO, "to a rollback, whose own reason is another"


def test_a_rollback_takes_a_reason_to_override_a_data_rule(measured: World) -> None:
    world = measured
    world.type("/finetune promote tickets zero", user=BEN)
    deploy_against_the_evidence(world)
    world.rules.more = f"{PRICES}{STAYS}"
    world.restart()
    refused = world.type("/finetune rollback tickets because=no", user=CLEO)
    assert "was in use before" in refused and "because=" in refused
    world.type("/finetune rollback tickets because=the customers agreed to it", user=CLEO)
    assert in_use(world) == ZERO


@pytest.mark.deep
def test_old_rows_of_what_is_in_use_are_not_deleted(measured: World) -> None:
    world = measured
    world.type("/finetune promote tickets zero", user=BEN)
    world.pass_time(3 * 24 * 3600)
    newer = world.upload_and_check(tickets_csv(91))
    before = datetime.fromtimestamp(newer.created_at, UTC).date()
    refusal = deletion_scope.find_scope(world.service.context, Delete("tickets", before))
    assert isinstance(refusal, Refusal) and "which is in use, was measured with it" in refusal.text
    assert "/finetune rollback tickets to=nothing" in refusal.text


def test_a_deletion_closes_requests_of_another_dataset_for_which_something_was_in_use(
    measured: World,
) -> None:
    """As for what learnt from a dataset's pairs, which is in use for that dataset."""
    world = measured
    world.seed_dataset(called="others", rows=60)
    measure(world, LINE.replace("tickets", "others").replace("zero", "kshot"), number=2)
    what = promotable_candidate(CLASSICAL, 2)
    lent = NewPromotion("tickets", what, BEN.id, PRIVATE.id, instead_of=None, returns_to=None)
    world.store.promotions.add(lent, now=world.clock)
    world.type(f"/finetune promote tickets zero {WHY}", user=BEN)
    world.send()
    assert request(world).state == "asked"

    world.slack.command(BEN.id, PRIVATE.id, "/finetune delete others")
    assert world.slack.submit_modal(BEN.id, {"name": "others"}).accepted
    world.tick_until(lambda: not world.store.deletions.open(), "the deletion")
    world.send()
    assert standing(world) is None and request(world).state == "outdated"
    assert "The prompt alone on acme/acme-small for tickets: out of date" in "".join(world.cards())


def test_what_stays_in_use_no_longer_shows_a_fallback_that_was_deleted(measured: World) -> None:
    world = measured
    world.seed_dataset(called="others", rows=60)
    measure(world, LINE.replace("tickets", "others").replace("zero", "kshot"), number=2)
    what = promotable_candidate(CLASSICAL, 2)
    lent = NewPromotion("tickets", what, BEN.id, PRIVATE.id, instead_of=None, returns_to=None)
    world.store.promotions.add(lent, now=world.clock)
    assert "will answer programs" in world.type("/finetune fallback tickets zero", user=BEN)
    world.send()
    world.find_message("The classical model is in use for tickets", "*If it can't answer*")

    world.slack.command(BEN.id, PRIVATE.id, "/finetune delete tickets")
    assert world.slack.submit_modal(BEN.id, {"name": "tickets"}).accepted
    world.tick_until(lambda: not world.store.deletions.open(), "the deletion")
    world.send()
    assert standing(world) is not None and world.store.fallbacks.current("tickets") is None
    assert "If it can't answer" not in world.find_message("The classical model is in use for tickets")


@pytest.mark.deep
def test_the_end_of_a_prompted_model_in_use_is_announced_and_programs_read_it(measured: World) -> None:
    world = measured
    world.type("/finetune promote tickets zero", user=BEN)
    world.tick_until(lambda: published(world) is not None, "the recipe")
    uses = sunsets.list_uses(world.store, world.service.settings, world.service.context.today())
    (use,) = [use for use in uses if use.kind == "in use"]
    assert (use.dataset, use.model, use.name) == (
        "tickets",
        "acme/acme-small",
        "the prompt alone on acme/acme-small",
    )
    service = world.provider.service
    tomorrow = units.day_of(world.clock + DAY_S)
    service.shutdowns = {"acme-small": tomorrow.isoformat()}
    maintain(world.service.context)
    world.send()
    world.find_message("acme/acme-small", "in use for tickets", tomorrow.isoformat())
    answer = published(world)
    assert answer is not None and answer.unavailable is None

    world.pass_time(DAY_S)
    maintain(world.service.context)
    answer = published(world)
    assert answer is not None and answer.unavailable is not None
    assert (answer.unavailable.status, answer.unavailable.code) == (503, "model_ended")
    assert f"ended at Acme Tuning on {tomorrow}. " in answer.unavailable.message
    world.tick()
    assert published(world) == answer, "a tick doesn't ask it again"
    refused = world.type("/finetune try tickets a question about refund")
    assert "no longer answers" in refused

    # Its vendor has postponed that.
    service.shutdowns = {"acme-small": units.day_of(world.clock + 90 * DAY_S).isoformat()}
    world.pass_time(DAY_S)
    maintain(world.service.context)
    answer = published(world)
    assert answer is not None and answer.unavailable is None


def test_cached_tokens_of_calls_cost_what_their_price_says(measured: World) -> None:
    world = measured
    world.rules.more = PRICES + 'cached_input = "0.20"\n'
    world.restart()
    world.type("/finetune promote tickets zero", user=BEN)
    world.tick_until(lambda: published(world) is not None, "the recipe")
    promotion = standing(world)
    assert promotion is not None and promotion.recipe is not None
    settings = world.service.settings
    calls = Usage(calls=10, prompt_tokens=1_000_000, cached_tokens=400_000, completion_tokens=100_000)
    today = units.day_of(world.clock).isoformat()
    usage.add(settings.recipes, {UsageKey(promotion.id, promotion.recipe, today): calls})
    maintain(world.service.context)
    (month,) = world.store.actuals.of("tickets")
    # $0.80 for 600,000, $0.20 for 400,000 and $3.20 for 100,000 tokens
    assert (month.cached_tokens, month.micros) == (400_000, 480_000 + 80_000 + 320_000)


def test_requests_are_told_apart_by_what_they_replace() -> None:
    proof = PromotionEvidence(None)
    hashes = {
        evidence_hash(Promotable("tickets-1"), None, proof),
        evidence_hash(Promotable("tickets-2"), None, proof),
        evidence_hash(Promotable("tickets-1"), 3, proof),
        evidence_hash(Promotable("tickets-1"), None, PromotionEvidence(None, bar=0.9)),
    }
    assert len(hashes) == 4
