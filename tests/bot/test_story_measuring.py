"""Curves, knowledge, prices and the form: what stands around the ladder."""

from __future__ import annotations

import json

import pytest

from bot.cards import evaluation_results, evaluations
from bot.services import documents
from bot.services.documents import DocumentUpload
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from storage.records import Document
from tests.bot.props import LABELS
from tests.bot.test_story_ladder import (
    CHAT,
    HELD,
    PRICES,
    MakeWorld,
    ladder_of,
    measurement,
    until,
    until_asked,
)
from tests.bot.world import DORA, PRIVATE, Rules, World, words_of
from tests.trainers.document_files import LOCKED, pdf, word
from trainers.evaluation.results import Curve

FAQ = (
    "\n\n".join(f"About {label}: our policy on {label} has {n} pages." for n, label in enumerate(LABELS)) * 40
)


def document(world: World, number: int = 1) -> Document:
    found: Document | None = world.store.documents.get(number)
    assert found is not None
    return found


def add_knowledge(
    world: World, name: str = "faq.md", content: str | bytes = FAQ, number: int = 1
) -> Document:
    world.slack.command(DORA.id, PRIVATE.id, "/finetune knowledge tickets")
    sent = world.slack.submit_modal(DORA.id, {"file": world.put_file(name, content)})
    assert sent.accepted, sent
    world.tick_until(lambda: document(world, number).state != "received", "the document")
    world.send()
    return document(world, number)


def test_a_curve_is_drawn_at_once_and_for_free(world: World) -> None:
    world.seed_dataset()
    assert world.type("/finetune curve tickets") == ""
    done = until(world, "done")
    curve = Curve.from_json(str(done.result))
    assert curve.dataset == "tickets" and curve.arm.key == "classical" and len(curve.points) >= 3
    assert [one.rows for one in curve.predicted] == [63, 84, 168]
    card = world.find_message("Learning curve m1: tickets, classical")
    assert "84" in card and "curve.png" in "\n".join(world.texts())
    assert done.actual_micros == 0 and world.provider.count(CHAT) == 0
    assert "Learning curve m1" in world.type("/finetune results m1")


def test_a_curve_that_can_t_be_drawn_is_a_sentence(world: World) -> None:
    world.seed_dataset()
    assert "I know no model to train" in world.type("/finetune curve tickets target=nonsense")
    assert "There is no dataset" in world.type("/finetune curve nothing")
    assert "Which dataset?" in world.type("/finetune curve")
    assert "“2k” should be numbers of rows" in world.type("/finetune curve tickets predict=2k")
    assert "dollars for one label" in world.type("/finetune curve tickets label_usd=cheap")
    assert world.store.measurements.newest() == []


def test_a_curve_says_what_a_point_costs_and_predicts_what_was_asked(world: World) -> None:
    world.seed_dataset()
    assert world.type("/finetune curve tickets predict=5000,300 label_usd=0.10") == ""
    done = until(world, "done")
    assert [one.rows for one in Curve.from_json(str(done.result)).predicted] == [300, 5000]
    assert json.loads(done.plan)["label_usd"] == "0.10"


def test_a_curve_goes_on_after_a_stop_and_can_be_cancelled(world: World) -> None:
    world.seed_dataset()
    world.type("/finetune curve tickets")
    world.tick()
    world.restart()
    until(world, "done")
    world.type("/finetune curve tickets")
    assert "Cancelling m2" in world.type("/finetune cancel m2")
    until(world, "cancelled", 2)
    assert len([text for text in world.texts() if "Learning curve m1: tickets" in text]) == 1


def test_documents_given_as_knowledge_are_what_retrieval_reads(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    ready = add_knowledge(world)
    assert ready.state == "ready" and ready.passages and ready.passages > 3
    assert f"{ready.passages} passages of about 90 words" in world.find_message("faq.md is ready")
    world.type("/finetune baseline tickets models=acme/acme-small rungs=retrieval")
    until_asked(world)
    world.click(ANA, evaluations.MEASURE)
    until(world, "done")
    prompts = [seen.body["messages"][0]["content"] for seen in world.provider.requests if seen.route == CHAT]
    assert len(prompts) == HELD and all("our policy on" in one and "passage 1" in one for one in prompts)
    world.click(ANA, evaluation_results.DETAILS)
    told = f"4 of {ready.passages} passages of about 90 words from 1 document"
    assert told in world.read_form(ANA)


def test_a_word_document_is_read_and_the_form_says_what_is_there(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    ready = add_knowledge(world, "handbook.docx", word(FAQ))
    assert ready.state == "ready"
    world.type("/finetune knowledge tickets", user=DORA)
    assert f"handbook.docx: {ready.passages} passages" in world.read_form(DORA)
    world.type("/finetune baseline tickets models=acme/acme-small rungs=retrieval")
    until_asked(world)
    world.click(ANA, evaluations.MEASURE)
    until(world, "done")
    about = ladder_of(world).rungs[0].retrieval
    assert about and (about.kind, about.documents, about.asked) == ("passages", 1, 0)


def test_the_right_label_s_share_among_the_nearest_rows_is_beside_the_accuracy(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    world.type("/finetune baseline tickets models=acme/acme-small rungs=retrieval")
    until_asked(world)
    world.click(ANA, evaluations.MEASURE)
    until(world, "done")
    about = ladder_of(world).rungs[0].retrieval
    assert about and (about.kind, about.k, about.hits, about.asked) == ("examples", 5, HELD, HELD)
    world.click(ANA, evaluation_results.DETAILS)
    assert "the right label was among the 5 nearest rows for 100%" in world.read_form(ANA)


def test_an_encoder_that_is_not_there_leaves_retrieval_out_with_the_reason(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=f'{PRICES}\n[encoder]\nmodel = "./nowhere"'))
    world.seed_dataset()
    world.type("/finetune baseline tickets models=acme/acme-small rungs=zero,retrieval")
    until_asked(world)
    world.click(ANA, evaluations.MEASURE)
    until(world, "done")
    assert [rung.arm.rung for rung in ladder_of(world).rungs] == ["zero"]
    assert "There is no encoder ./nowhere" in world.find_message("Left out: retrieval")


@pytest.mark.parametrize("was_waived_before", [False, True])
def test_personal_data_in_a_document_stays_on_this_machine(
    make_world: MakeWorld, was_waived_before: bool
) -> None:
    """A waiver is of what was there when it was given."""
    world = make_world(Rules(more=PRICES, provider_is_remote=True))
    dataset = world.seed_dataset()
    if was_waived_before:
        world.store.waivers.add(dataset.id, BEN.id, "the customers agreed to it", now=world.clock)
        world.pass_time(60)
    add_knowledge(
        world, content=f"{FAQ}\n\nAbout refund: write to ana.silva@example.com about any refund policy."
    )
    world.type("/finetune baseline tickets models=acme/acme-small rungs=retrieval")
    until_asked(world)
    world.click(ANA, evaluations.MEASURE)
    until(world, "done")
    sent = [json.dumps(seen.body) for seen in world.provider.requests if seen.route == CHAT]
    assert len(sent) == HELD and not any("ana.silva" in one for one in sent)
    world.click(ANA, evaluation_results.DETAILS)
    assert "Passages with personal data were kept from acme/acme-small" in world.read_form(ANA)


def test_a_secret_in_a_document_from_before_is_in_no_prompt_whatever_was_waived(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    ready = add_knowledge(world)
    token = "gl" + "pat-aB3dE5gH7jK9mN1pQ2rS"
    path = world.service.settings.files / f"{ready.sha256}.text"
    path.write_text(f"{FAQ}\n\nA question about refund, and more words: use {token}", encoding="utf-8")
    world.type("/finetune baseline tickets models=acme/acme-small rungs=retrieval")
    until_asked(world)
    world.click(ANA, evaluations.MEASURE)
    until(world, "done")
    sent = [json.dumps(seen.body) for seen in world.provider.requests if seen.route == CHAT]
    assert len(sent) == HELD and not any(token in one for one in sent)


def test_another_document_makes_other_questions(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    for number, text in enumerate((FAQ, FAQ.replace("policy", "rule")), 1):
        add_knowledge(world, content=text, number=number)
        world.type("/finetune baseline tickets models=acme/acme-small rungs=retrieval")
        until_asked(world, number)
        world.click(ANA, evaluations.MEASURE)
        until(world, "done", number)
    assert world.provider.count(CHAT) == 2 * HELD


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe\x00binary", "not plain text in UTF-8"),
        (b"  \n ", "It is empty"),
        (pdf(""), "It may be a scan"),
        (pdf("secret", trailer=LOCKED), "locked with a password"),
        (pdf("a page", pages=2_001), "It has 2,001 pages; the limit is 2,000"),
        (b"Sign in with AKIA" + b"IOSFODNN7EXAMPLX to see the orders.", "Revoke the secret"),
    ],
)
def test_a_document_that_can_t_be_read_is_refused_with_the_reason(
    world: World, content: bytes, said: str
) -> None:
    world.seed_dataset()
    assert add_knowledge(world, content=content).state == "refused"
    assert said in world.find_message("can't be used")
    assert world.store.documents.ready("tickets") == []


def test_a_document_of_another_kind_is_refused(world: World) -> None:
    """The form offers text only, which is a convenience of Slack's and no check."""
    world.seed_dataset()
    handed = DocumentUpload("tickets", PRIVATE.id, DORA.id, "F0DOC", "handbook.doc")
    refused = documents.receive(world.service.context, handed)
    assert isinstance(refused, Refusal) and ".md" in refused.text


def test_knowledge_without_a_dataset_is_a_sentence(world: World) -> None:
    assert "There is no dataset" in world.type("/finetune knowledge tickets")


def test_the_form_measures_what_was_chosen(world: World) -> None:
    world.seed_dataset()
    world.slack.command(ANA.id, PRIVATE.id, "/finetune baseline")
    sent = world.slack.submit_modal(ANA.id, {"dataset": "tickets", "rungs": "classical", "bar": "95%"})
    assert sent.accepted and sent.closed, sent
    until(world, "done")
    assert ladder_of(world).bar == 0.95 and measurement(world).requested_by == ANA.id


def test_the_form_says_what_it_can_t_read(world: World) -> None:
    world.seed_dataset()
    world.slack.command(ANA.id, PRIVATE.id, "/finetune baseline")
    sent = world.slack.submit_modal(ANA.id, {"dataset": "tickets", "bar": "good"})
    assert not sent.accepted and "share of right answers" in str(sent.errors)


def test_baseline_alone_without_a_dataset_is_a_sentence(world: World) -> None:
    assert "`/finetune upload` adds the first one" in world.type("/finetune baseline")


def test_prices_are_told_with_their_source(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    all_of_them = world.type("/finetune prices")
    assert "acme/acme-small" in all_of_them and "your own price" in all_of_them and "gpt-4.1" in all_of_them
    named = world.type("/finetune prices gpt-4o-mini acme/acme-small nonsense-model")
    assert "gpt-4o-mini" in named and "genai-prices" in named and "No price is known" in named


def test_from_the_result_to_the_estimate_is_one_click(world: World) -> None:
    world.seed_dataset()
    world.type("/finetune baseline tickets rungs=classical")
    until(world, "done")
    world.click(ANA, "estimate_after_ladder")
    sent = world.slack.submit_modal(
        ANA.id,
        {
            "dataset": "tickets",
            "current": "gpt-4o",
            "volume": "100M",
            "target": "acme/acme-small",
            "hours": "40",
        },
    )
    assert sent.accepted, sent
    world.wait_for_answer(ANA, 0)
    assert "tickets" in words_of(world.slack.ephemerals(ANA.id)[-1])


def test_an_estimate_takes_what_only_a_person_knows(world: World) -> None:
    world.seed_dataset()
    line = "/finetune estimate tickets current=gpt-4o volume=100M target=acme/acme-small"
    world.type(line)
    plain = world.estimate_details()
    world.type(f"{line} hours=400 rate=100")
    assert plain != world.estimate_details()
    assert "hours of people's time" in world.type(f"{line} hours=many")


def test_free_text_is_measured_without_the_classical_rung(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.provider.service.answer = lambda _model, messages: f"Thank you. {messages[-1]['content'][:40]}"
    rows = [_reply_row(number) for number in range(60)]
    world.upload("replies.jsonl", "\n".join(rows), called="replies")
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    assert "free text" in world.type("/finetune baseline replies rungs=classical")
    assert "free text" in world.type("/finetune curve replies")
    world.type("/finetune baseline replies models=acme/acme-small rungs=zero,kshot,retrieval")
    until_asked(world)
    world.click(ANA, evaluations.MEASURE)
    until(world, "done")
    ladder = ladder_of(world)
    assert [rung.arm.rung for rung in ladder.rungs] == ["zero", "kshot", "retrieval"]
    assert {rung.scoring for rung in ladder.rungs} == {"f1"}
    assert all(0 < rung.score < 1 for rung in ladder.rungs)
    assert all(seen.body["max_tokens"] == 256 for seen in world.provider.requests if seen.route == CHAT)


def _reply_row(number: int) -> str:
    question = f"Order {number * 37}: where is parcel number {number} that I sent on day {number % 30}?"
    reply = f"Thank you. We looked up order {number * 37} and parcel {number} is on its way to you since {number}."
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return json.dumps({"messages": messages})
