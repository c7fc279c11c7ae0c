"""Around the comparison: classical learning curves, documents for retrieval, prices, and the form."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bot.cards.evidence import evaluation_results
from bot.services import document_removal
from bot.services.datasets import dataset_worker, documents
from bot.services.datasets.documents import DocumentUpload
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from storage.records import Document
from tests.bot.cli_runner import finetune
from tests.bot.measurements import (
    BASELINE,
    CHAT,
    HELD,
    PRICES,
    comparison_of,
    measure,
    measurement,
    until,
)
from tests.bot.models.test_story_use_candidate import set_bar
from tests.bot.props import LABELS, tickets_csv
from tests.bot.slack.test_story_entry_points import open_home
from tests.bot.world import DORA, PRIVATE, TARGET, MakeWorld, Rules, World, words_of
from tests.patience import wait_until
from tests.trainers.dataset.document_files import LOCKED, pdf, word
from trainers.evaluation.results import Curve
from trainers.recipes.folder import RecipeFolder

FAQ = (
    "\n\n".join(f"About {label}: our policy on {label} has {n} pages." for n, label in enumerate(LABELS)) * 40
)


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """The company's model has a price, so it may be asked."""
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    return world


def prompts_of(world: World) -> list[str]:
    """All questions that the company's model was asked, as JSON."""
    return [json.dumps(request.body) for request in world.provider.requests if request.route == CHAT]


def document(world: World, number: int = 1) -> Document:
    document: Document | None = world.store.documents.get(number)
    assert document is not None
    return document


def add_knowledge(
    world: World, name: str = "faq.md", content: str | bytes = FAQ, number: int = 1
) -> Document:
    world.slack.command(DORA.id, PRIVATE.id, "/finetune knowledge tickets")
    sent = world.slack.submit_modal(DORA.id, {"file": world.put_file(name, content)})
    assert sent.accepted, sent
    world.tick_until(lambda: document(world, number).state != "received", "the document")
    world.send()
    return document(world, number)


@pytest.mark.deep
def test_a_classical_curve_is_free_survives_a_restart_and_can_be_cancelled(world: World) -> None:
    assert world.type("/finetune curve tickets") == ""
    world.tick()
    world.restart()
    done = until(world, "done")
    curve = Curve.from_json(str(done.result))
    assert curve.dataset == "tickets" and curve.candidate.key == "classical" and len(curve.points) >= 3
    assert [prediction.rows for prediction in curve.predicted] == [63, 84, 168]
    assert "84" in world.find_message("Learning curve m1: tickets, classical")
    world.tick_until_file("curve.png")
    assert done.actual_micros == 0 and world.provider.count(CHAT) == 0
    assert "Learning curve m1" in world.type("/finetune results m1")

    world.type("/finetune curve tickets")
    assert "Cancelling m2" in world.type("/finetune cancel m2")
    until(world, "cancelled", 2)
    assert len([text for text in world.texts() if "Learning curve m1: tickets" in text]) == 1


def test_a_plan_of_a_newer_release_holds_up_only_its_own_curve(world: World) -> None:
    world.type("/finetune curve tickets")
    newer = json.dumps({**json.loads(measurement(world).plan), "unknown": 1})
    world.store.database.change("UPDATE measurements SET plan = ? WHERE id = 1", (newer,))
    context = world.service.context
    world.tick_until(lambda: measurement(world).next_at > context.clock() + 500, "the pause")
    assert measurement(world).state == "running"
    assert "this version can't read" in world.type("/finetune status")
    assert "this version can't read" in open_home(world, ANA.id)
    for command in ("status m1", "results m1", "cancel m1"):
        assert "stored by a newer version of the bot, which this version can't read" in world.type(
            f"/finetune {command}"
        )


@pytest.mark.deep
def test_a_result_of_a_newer_release_is_left_out_and_named(world: World) -> None:
    world.type("/finetune baseline tickets candidates=classical")
    until(world, "done")
    world.type("/finetune curve tickets")
    until(world, "done", 2)
    for number in (1, 2):
        newer = json.dumps({**json.loads(str(measurement(world, number).result)), "unknown": 1})
        world.store.database.change("UPDATE measurements SET result = ? WHERE id = ?", (newer, number))
    left_out = (
        "m1, m2 aren't counted, as a newer version of the bot stored them: start that version to count them."
    )
    assert left_out in world.type(f"/finetune estimate tickets current=gpt-4o volume=1M target={TARGET}")
    assert "m1" not in world.type("/finetune datasets")
    assert "Start the newer version to see it and to have it counted." in world.type("/finetune status")
    for command in ("status m1", "results m1", "results m2"):
        assert "stored by a newer version of the bot" in world.type(f"/finetune {command}")
    world.type("/finetune baseline tickets candidates=encoder")
    until(world, "done", 3)
    assert "The closest is the encoder" in world.find_message("m3")
    world.tick_until_file("comparison.png")


def test_an_impossible_curve_says_why(world: World) -> None:
    assert "There is no dataset" in world.type("/finetune curve nothing")
    assert "Which dataset?" in world.type("/finetune curve")
    assert "“2k” should be numbers of rows" in world.type("/finetune curve tickets predict=2k")
    assert "dollars for one label" in world.type("/finetune curve tickets label_usd=cheap")
    assert world.store.measurements.newest() == []


def test_a_curve_of_few_rows_is_refused(make_world: MakeWorld) -> None:
    world = make_world(Rules())
    assert world.upload_and_check(tickets_csv(14)).state == "ready"
    refusal = world.type("/finetune curve tickets")
    assert "`tickets` has 11 rows to train on; a curve needs at least 12." in refusal


def test_a_curve_predicts_the_given_numbers_of_rows(world: World) -> None:
    assert world.type("/finetune curve tickets predict=5000,300 label_usd=0.10") == ""
    done = until(world, "done")
    curve = Curve.from_json(str(done.result))
    assert [prediction.rows for prediction in curve.predicted] == [300, 5000]
    assert json.loads(done.plan)["label_usd"] == "0.10"


def test_a_curve_takes_the_price_of_a_label_from_a_shared_estimate(world: World) -> None:
    estimate = f"/finetune estimate tickets current=gpt-4o volume=1M target={TARGET} label_usd=0.25 labels=10"
    world.type(estimate)
    world.share_estimate()
    world.type("/finetune curve tickets")
    assert json.loads(measurement(world).plan)["label_usd"] == "0.25"
    world.type("/finetune curve tickets label_usd=2")
    assert json.loads(measurement(world, 2).plan)["label_usd"] == "2"


@pytest.mark.deep
def test_retrieval_reads_the_uploaded_documents(world: World) -> None:
    ready = add_knowledge(world)
    assert ready.state == "ready" and ready.passages and ready.passages > 3
    assert f"{ready.passages} passages of about 90 words" in world.find_message("faq.md is ready")
    measure(world, f"{BASELINE} candidates=retrieval")
    prompts = prompts_of(world)
    assert len(prompts) == HELD
    assert all("our policy on" in prompt and "passage 1" in prompt for prompt in prompts)
    retrieval = comparison_of(world).candidates[0].retrieval
    assert retrieval and (retrieval.kind, retrieval.documents, retrieval.asked) == ("passages", 1, 0)
    world.click(ANA, evaluation_results.DETAILS)
    assert f"4 of {ready.passages} passages of about 90 words from 1 document" in world.read_form(ANA)


@pytest.mark.deep
def test_a_word_document_is_read_listed_and_removed(world: World) -> None:
    ready = add_knowledge(world, "handbook.docx", word(FAQ))
    assert ready.state == "ready"
    add_knowledge(world, "handbook.docx", word(FAQ.replace("policy", "rule")), number=2)
    measure(world, f"{BASELINE} candidates=retrieval")
    world.type("/finetune knowledge tickets", user=DORA)
    form = world.read_form(DORA)
    assert f"*handbook.docx*: {ready.passages} passages" in form and "measured in m1" in form
    context = world.service.context
    by_another = document_removal.remove(context, "2", ANA.id)
    assert isinstance(by_another, Refusal) and document(world, 2).state == "ready"
    files = [world.service.settings.files / str(document(world, number).sha256) for number in (1, 2)]
    assert all(path.exists() for path in files)

    world.slack.press(DORA.id, "remove_document")
    world.tick_until(lambda: not world.store.documents.ready("tickets"), "the removal")
    wait_until(lambda: "handbook" not in world.read_form(DORA), "the form without it")
    world.send()
    assert "it from the knowledge of `tickets`" in world.find_message("handbook.docx was removed")
    assert [path for path in files if path.exists() or path.with_name(f"{path.name}.text").exists()] == []
    removals = [entry for entry in world.store.audit.entries() if entry.action == "remove knowledge"]
    assert [(entry.who, entry.subject) for entry in removals] == [(DORA.id, "document 2")]
    assert document_removal.list_entries(context, "tickets") == []


@pytest.mark.deep
def test_nothing_answers_from_a_removed_document(world: World) -> None:
    add_knowledge(world, content=FAQ.replace("our policy", "our quokka policy"))
    measure(world, f"{BASELINE} candidates=retrieval,zero")
    set_bar(world, 0.01)
    assert world.type("/finetune promote tickets retrieval", user=BEN) == ""
    folder = RecipeFolder(world.service.settings.recipes)
    world.tick_until(lambda: folder.published("team/tickets") is not None, "the recipe")
    assert recipe_files_with(folder, b"quokka")
    world.send()
    context = world.service.context
    world.store.database.change("UPDATE documents SET uploaded_by = ?", (ANA.id,))
    may_not = document_removal.remove(context, "1", ANA.id)
    assert isinstance(may_not, Refusal), "she uploaded it, and may not take anything out of use"
    world.type("/finetune promote tickets zero because=half the price", user=BEN)
    assert len(world.store.promotion_requests.open()) == 1, "it is not shown to be better"
    world.type("/finetune try tickets what is the policy?")

    assert not isinstance(document_removal.remove(context, "1", BEN.id), Refusal)
    assert "is no longer in use, and what it answers from was deleted" in world.tick_until_answered()
    published = folder.published("team/tickets")
    assert published is not None and published.unavailable is not None
    assert "was taken out of use on" in published.unavailable.message
    assert world.store.promotions.current("tickets") is None
    assert not world.store.promotion_requests.open(), "it compared with what was in use"
    assert recipe_files_with(folder, b"quokka") == []
    world.send()
    world.find_message("faq.md was removed", "*Taken out of use*")
    world.find_message("was in use for tickets", "faq.md, from which it answers, was removed")
    refused = world.type("/finetune promote tickets retrieval", user=BEN)
    assert "A document in which m1 looked things up was removed" in refused


@pytest.mark.deep
def test_a_document_of_the_fallback_is_not_removed(world: World) -> None:
    add_knowledge(world)
    measure(world, f"{BASELINE} candidates=retrieval,zero")
    set_bar(world, 0.01)
    assert world.type("/finetune promote tickets zero", user=BEN) == ""
    assert "will answer programs" in world.type("/finetune fallback tickets retrieval", user=BEN)
    refused = document_removal.remove(world.service.context, "1", BEN.id)
    assert isinstance(refused, Refusal) and "/finetune fallback tickets to=nothing" in refused.text
    world.type("/finetune fallback tickets to=nothing", user=BEN)
    assert not isinstance(document_removal.remove(world.service.context, "1", BEN.id), Refusal)


def recipe_files_with(folder: RecipeFolder, word: bytes) -> list[Path]:
    return [path for path in folder.root.rglob("*") if path.is_file() and word in path.read_bytes()]


def test_documents_are_listed_and_removed_in_the_terminal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = add_knowledge(world)
    settings = world.service.settings
    for module in ("admin", "models"):
        monkeypatch.setattr(f"bot.cli.{module}.load", lambda **_: settings)
    assert f"faq.md: {ready.passages} passages" in finetune("knowledge", "tickets").output
    remove = ("knowledge", "tickets", "--yes", "--remove")
    assert finetune(*remove, "faq.md").exit_code != 0, "the bot has the database open"
    world.stop()
    assert "It has: faq.md." in finetune(*remove, "other.md").output
    assert "faq.md is removed" in finetune(*remove, "faq.md").output
    assert "has no documents" in finetune("knowledge", "tickets").output
    world.boot()
    world.send()
    assert "The operator, in the terminal, removed it" in world.find_message("faq.md was removed")


def sleep_instead_of_reading(path: Path) -> int:
    time.sleep(600)
    return 0


def test_a_document_that_takes_too_long_is_not_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_worker, "read_passages", sleep_instead_of_reading)
    monkeypatch.setattr(world.workers, "_deadline_s", 0.5)
    refused = add_knowledge(world)
    assert (refused.state, refused.tries) == ("refused", 0)
    card = world.find_message("faq.md can't be used")
    assert "Reading it took longer than" in card and "Split it into smaller documents." in card


@pytest.mark.deep
def test_the_details_show_how_often_retrieval_found_the_right_label(world: World) -> None:
    measure(world, f"{BASELINE} candidates=retrieval")
    retrieval = comparison_of(world).candidates[0].retrieval
    assert retrieval and (retrieval.kind, retrieval.k) == ("examples", 5)
    assert (retrieval.hits, retrieval.asked) == (HELD, HELD)
    world.click(ANA, evaluation_results.DETAILS)
    assert "the right label was among the 5 nearest rows for 100%" in world.read_form(ANA)


def test_without_its_encoder_retrieval_is_left_out_with_the_reason(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=f'{PRICES}\n[encoder]\nmodel = "./nowhere"'))
    world.seed_dataset()
    measure(world, f"{BASELINE} candidates=zero,retrieval")
    assert [candidate.kind for candidate in comparison_of(world).candidates] == ["zero"]
    assert "There is no encoder ./nowhere" in world.find_message("Left out: retrieval")


@pytest.mark.deep
@pytest.mark.parametrize("was_waived_before", [False, True])
def test_personal_data_in_a_document_stays_on_this_machine(
    make_world: MakeWorld, was_waived_before: bool
) -> None:
    """A waiver covers only what was there when it was given."""
    world = make_world(Rules(more=PRICES, provider_is_remote=True))
    dataset = world.seed_dataset()
    if was_waived_before:
        world.store.waivers.add(dataset.id, BEN.id, "the customers agreed to it", now=world.clock)
        world.pass_time(60)
    add_knowledge(
        world, content=f"{FAQ}\n\nAbout refund: write to ana.silva@example.com about any refund policy."
    )
    measure(world, f"{BASELINE} candidates=retrieval")
    assert len(prompts_of(world)) == HELD and "ana.silva" not in str(prompts_of(world))
    world.click(ANA, evaluation_results.DETAILS)
    assert "Passages with personal data were kept from acme/acme-small" in world.read_form(ANA)


@pytest.mark.deep
def test_a_secret_in_an_older_document_is_in_no_prompt(
    world: World,
) -> None:
    ready = add_knowledge(world)
    token = "gl" + "pat-aB3dE5gH7jK9mN1pQ2rS"
    path = world.service.settings.files / f"{ready.sha256}.text"
    path.write_text(f"{FAQ}\n\nA question about refund, and more words: use {token}", encoding="utf-8")
    measure(world, f"{BASELINE} candidates=retrieval")
    assert len(prompts_of(world)) == HELD and token not in str(prompts_of(world))


@pytest.mark.deep
def test_an_added_document_changes_the_questions(world: World) -> None:
    for number, text in enumerate((FAQ, FAQ.replace("policy", "rule")), 1):
        add_knowledge(world, content=text, number=number)
        measure(world, f"{BASELINE} candidates=retrieval", number)
    assert world.provider.count(CHAT) == 2 * HELD


@pytest.mark.deep
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe\x00binary", "not plain text in UTF-8"),
        (b"  \n ", "It is empty"),
        (pdf(""), "It may be a scan"),
        (pdf("secret", trailer=LOCKED), "locked with a password"),
        (pdf("a page", pages=2_001), "It has 2,001 pages; the limit is 2,000"),
        (b"Sign in with AKIA" + b"IOSFODNN7EXAMPLX to see the orders.", "Revoke the secret"),
    ],
)
def test_an_unusable_document_is_refused_with_the_reason(world: World, content: bytes, reason: str) -> None:
    assert add_knowledge(world, content=content).state == "refused"
    assert reason in world.find_message("can't be used")
    assert world.store.documents.ready("tickets") == []


def test_a_document_of_another_kind_is_refused(world: World) -> None:
    """Slack's form offers only text files, but that is a convenience and not a check."""
    upload = DocumentUpload("tickets", PRIVATE.id, DORA.id, "F0DOC", "handbook.doc")
    refusal = documents.receive(world.service.context, upload)
    assert isinstance(refusal, Refusal) and ".md" in refusal.text


def test_documents_need_a_dataset(make_world: MakeWorld) -> None:
    world = make_world(Rules())
    assert "There is no dataset" in world.type("/finetune knowledge tickets")


def test_the_form_measures_what_was_chosen(world: World) -> None:
    world.slack.command(ANA.id, PRIVATE.id, "/finetune baseline")
    sent = world.slack.submit_modal(ANA.id, {"dataset": "tickets", "candidates": "classical", "bar": "95%"})
    assert sent.accepted and sent.closed, sent
    until(world, "done")
    assert comparison_of(world).bar == 0.95 and measurement(world).requested_by == ANA.id


def test_the_form_shows_what_it_cannot_read(world: World) -> None:
    world.slack.command(ANA.id, PRIVATE.id, "/finetune baseline")
    sent = world.slack.submit_modal(ANA.id, {"dataset": "tickets", "bar": "good"})
    assert not sent.accepted and "share of right answers" in str(sent.errors)


def test_measuring_needs_a_dataset(make_world: MakeWorld) -> None:
    world = make_world(Rules())
    assert "`/finetune upload` adds the first one" in world.type("/finetune baseline")


def test_prices_are_listed_with_their_source(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    prices = world.type("/finetune prices")
    assert "acme/acme-small" in prices and "your own price" in prices and "gpt-4.1" in prices
    prices = world.type("/finetune prices gpt-4o-mini acme/acme-small nonsense-model")
    assert "gpt-4o-mini" in prices and "genai-prices" in prices and "No price is known" in prices


def test_from_the_result_to_the_estimate_is_one_click(world: World) -> None:
    world.type("/finetune baseline tickets candidates=classical")
    until(world, "done")
    world.click(ANA, "estimate_after_ladder")
    sent = world.slack.submit_modal(
        ANA.id,
        {
            "dataset": "tickets",
            "current": "gpt-4o",
            "volume": "100M tokens",
            "target": "acme/acme-small",
            "hours": "40",
        },
    )
    assert sent.accepted, sent
    world.wait_for_answer(ANA, 0)
    assert "tickets" in words_of(world.slack.ephemerals(ANA.id)[-1])


@pytest.mark.deep
def test_free_text_is_measured_without_the_classical_candidate(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.provider.service.answer = lambda _model, messages: f"Thank you. {messages[-1]['content'][:40]}"
    rows = [_reply_row(number) for number in range(60)]
    world.upload("replies.jsonl", "\n".join(rows), called="replies")
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    assert "free text" in world.type("/finetune baseline replies candidates=classical")
    assert "free text" in world.type("/finetune curve replies")
    comparison = measure(
        world, "/finetune baseline replies models=acme/acme-small candidates=zero,kshot,retrieval"
    )
    assert [candidate.kind for candidate in comparison.candidates] == ["zero", "kshot", "retrieval"]
    assert {candidate.scoring for candidate in comparison.candidates} == {"f1"}
    assert all(0 < candidate.score < 1 for candidate in comparison.candidates)
    assert all('"max_tokens": 256' in prompt for prompt in prompts_of(world))


def _reply_row(number: int) -> str:
    question = f"Order {number * 37}: where is parcel number {number} that I sent on day {number % 30}?"
    reply = f"Thank you. We looked up order {number * 37} and parcel {number} is on its way to you since {number}."
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return json.dumps({"messages": messages})
