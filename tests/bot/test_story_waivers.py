"""Personal data leaves for a vendor only with somebody's recorded word; our own machine needs none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from demo.people import ANA, BEN
from demo.workspace import Person, wait_until
from tests.bot.props import tickets_csv
from tests.bot.world import CLEO, DORA, GUS, START, Rules, World

FAR = Rules(provider_is_remote=True)
ON_RAY = """[trainer]
executor = "ray"
ray_address = "http://ray-head:8265"
{}
[trainer.models]
"smollm2-135m" = "org/smollm2"
"""
START_ON_RAY = "/finetune start tickets target=local/smollm2-135m"


def with_addresses(csv: str) -> str:
    """Two customers wrote where to answer."""
    return csv.replace("Order 37:", "Mail jo@example.com, order 37:").replace(
        "Order 74:", "Mail kim@example.org, order 74:"
    )


@pytest.fixture
def far(make_world: Callable[[Rules], World]) -> World:
    return make_world(FAR)


def _ready(world: World, content: str) -> None:
    assert world.upload_and_check(content).state == "ready"


def _waive(world: World, reason: str = "the customers agreed, LEGAL-12") -> None:
    world.click(CLEO, "record_waiver")
    assert world.slack.submit_modal(CLEO.id, {"reason": reason}).closed
    world.send()


def test_personal_data_stays_until_somebody_says_why_it_may_leave(far: World) -> None:
    _ready(far, with_addresses(tickets_csv()))
    answer = far.type(START)
    assert "personal data" in answer and "Acme Tuning" in answer and "on this machine" in answer
    assert far.store.runs.newest() == []
    far.send()
    card = far.find_message("contains personal data")
    assert "Each of lines 3, 4 holds an e-mail address" in card and "example.com" not in card
    _waive(far)
    said = far.find_message("may be sent to vendors")
    assert f"<@{CLEO.id}>" in said and "LEGAL-12" in said and not far.has_button("record_waiver")
    assert far.type(START) == ""
    assert far.newest_run().state == "awaiting_approval"
    (entry,) = [one for one in far.store.audit.entries() if one.action == "waive"]
    assert (entry.who, entry.subject) == (CLEO.id, f"dataset {far.dataset().id}")
    assert "LEGAL-12" in entry.detail


def test_a_cluster_is_not_this_machine_until_the_settings_say_whose_it_is(
    make_world: Callable[[Rules], World],
) -> None:
    world = make_world(Rules(more=ON_RAY.format("")))
    _ready(world, with_addresses(tickets_csv()))
    answer = world.type(START_ON_RAY)
    assert "can go to the Ray cluster at http://ray-head:8265 only after an approver" in answer
    assert world.store.runs.newest() == []


def test_the_card_names_the_cluster_that_a_team_calls_its_own(make_world: Callable[[Rules], World]) -> None:
    world = make_world(Rules(more=ON_RAY.format("ray_is_ours = true")))
    _ready(world, with_addresses(tickets_csv()))
    assert world.type(START_ON_RAY) == ""
    world.send()
    assert "It trains on the Ray cluster at http://ray-head:8265." in world.find_message("train smollm2-135m")


def test_data_that_no_rule_covers_does_not_go_to_a_cluster(make_world: Callable[[Rules], World]) -> None:
    rule = '[[policy.data]]\nname = "other"\nchannels = ["C0OTHER"]\nproviders = ["local"]\n'
    world = make_world(Rules(more=ON_RAY.format("") + rule))
    _ready(world, tickets_csv())
    assert "was not sent to local" in world.type(START_ON_RAY)


def test_a_waived_dataset_is_trained_there(far: World) -> None:
    _ready(far, with_addresses(tickets_csv()))
    far.type(START)
    far.send()
    _waive(far)
    assert far.type(START) == ""
    far.send()
    far.approve()
    far.tick_until_state("training")
    assert far.jobs() == 1


def test_nothing_personal_needs_no_word(far: World) -> None:
    _ready(far, tickets_csv())
    assert far.type(START) == ""
    far.send()
    assert not far.has_button("record_waiver")


def test_a_trainer_on_this_machine_needs_no_word(world: World) -> None:
    _ready(world, with_addresses(tickets_csv()))
    assert world.type(START) == ""
    assert world.newest_run().state == "awaiting_approval"


def test_a_new_version_needs_a_word_of_its_own(far: World) -> None:
    _ready(far, with_addresses(tickets_csv()))
    far.type(START)
    far.send()
    _waive(far)
    _ready(far, with_addresses(tickets_csv(90)))
    assert "personal data" in far.type(START)


def test_asking_again_and_again_posts_one_card(far: World) -> None:
    _ready(far, with_addresses(tickets_csv()))
    for _ in range(3):
        far.type(START)
    far.send()
    assert len([text for text in far.texts() if "contains personal data" in text]) == 1


def test_the_first_word_stands(far: World) -> None:
    _ready(far, with_addresses(tickets_csv()))
    far.type(START)
    far.send()
    far.click(BEN, "record_waiver")
    far.click(CLEO, "record_waiver")
    assert far.slack.submit_modal(CLEO.id, {"reason": "the customers agreed"}).closed
    late = far.slack.submit_modal(BEN.id, {"reason": "I say so too"})
    assert not late.closed and f"<@{CLEO.id}>" in late.errors["reason"]
    waiver = far.store.waivers.of(far.dataset().id)
    assert (waiver.person, waiver.reason) == (CLEO.id, "the customers agreed")


def test_the_card_survives_a_restart(far: World) -> None:
    _ready(far, with_addresses(tickets_csv()))
    far.type(START)
    far.restart()
    far.send()
    _waive(far)
    far.restart()
    assert far.type(START, user=ANA) == ""
    wait_until(lambda: far.store.runs.newest(), "the run")


@pytest.mark.parametrize(
    ("person", "sentence"),
    [(DORA, "You uploaded this data"), (ANA, "Only an approver may do that"), (GUS, "Only full members")],
    ids=lambda one: one.name if isinstance(one, Person) else "",
)
def test_only_an_approver_who_did_not_bring_the_data_may_record_one(
    far: World, person: Person, sentence: str
) -> None:
    _ready(far, with_addresses(tickets_csv()))
    far.type(START)
    far.send()
    assert sentence in far.click_and_read(person, "record_waiver")
    assert far.store.waivers.of(far.dataset().id) is None


def test_a_reason_that_says_nothing_is_none(far: World) -> None:
    _ready(far, with_addresses(tickets_csv()))
    far.type(START)
    far.send()
    far.click(CLEO, "record_waiver")
    sent = far.slack.submit_modal(CLEO.id, {"reason": "ok"})
    assert "at least 3 words" in sent.errors["reason"]
    assert far.store.waivers.of(far.dataset().id) is None
