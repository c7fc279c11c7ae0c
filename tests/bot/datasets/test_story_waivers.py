"""Personal data is sent to a vendor only after an approver records why; our own machine needs no waiver."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from demo.people import ANA, BEN
from tests.bot.props import tickets_csv
from tests.bot.world import CLEO, DORA, GUS, START, Rules, World
from tests.patience import wait_until

ON_RAY = """[trainer]
executor = "ray"
ray_address = "http://ray-head:8265"
{}
[trainer.models]
"smollm2-135m" = "org/smollm2"
"""
START_ON_RAY = "/finetune start tickets target=local/smollm2-135m"


def with_addresses(csv: str) -> str:
    """Adds two customers' e-mail addresses."""
    return csv.replace("Order 37:", "Mail jo@example.com, order 37:").replace(
        "Order 74:", "Mail kim@example.org, order 74:"
    )


@pytest.fixture
def far(make_world: Callable[[Rules], World]) -> World:
    return make_world(Rules(provider_is_remote=True))


def _ready(world: World, content: str) -> None:
    assert world.upload_and_check(content).state == "ready"


def _waive(world: World, reason: str = "the customers agreed, LEGAL-12") -> None:
    world.click(CLEO, "record_waiver")
    assert world.slack.submit_modal(CLEO.id, {"reason": reason}).closed
    world.send()


@pytest.mark.deep
def test_personal_data_is_sent_only_after_an_approver_gives_a_reason(far: World) -> None:
    _ready(far, with_addresses(tickets_csv()))
    for _ in range(3):
        reply = far.type(START)
        assert "personal data" in reply and "Acme Tuning" in reply and "on this machine" in reply
    assert far.store.runs.newest() == []
    far.send()
    assert len([text for text in far.texts() if "contains personal data" in text]) == 1
    card = far.find_message("contains personal data")
    assert "Each of lines 3, 4 holds an e-mail address" in card and "example.com" not in card

    for person, sentence in (
        (DORA, "You uploaded this data"),
        (ANA, "Only an approver may do that"),
        (GUS, "Only full members"),
    ):
        assert sentence in far.click_and_read(person, "record_waiver")
    far.click(BEN, "record_waiver")
    far.click(CLEO, "record_waiver")
    form = far.slack.submit_modal(CLEO.id, {"reason": "ok"})
    assert "at least 3 words" in form.errors["reason"]
    assert far.store.waivers.of(far.dataset().id) is None
    assert far.slack.submit_modal(CLEO.id, {"reason": "the customers agreed, LEGAL-12"}).closed
    late = far.slack.submit_modal(BEN.id, {"reason": "I say so too"})
    assert not late.closed and f"<@{CLEO.id}>" in late.errors["reason"]
    waiver = far.store.waivers.of(far.dataset().id)
    assert (waiver.person, waiver.reason) == (CLEO.id, "the customers agreed, LEGAL-12")
    far.send()
    notice = far.find_message("may be sent to vendors")
    assert f"<@{CLEO.id}>" in notice and "LEGAL-12" in notice and not far.has_button("record_waiver")
    (entry,) = [entry for entry in far.store.audit.entries() if entry.action == "waive"]
    assert (entry.who, entry.subject) == (CLEO.id, f"dataset {far.dataset().id}")
    assert "LEGAL-12" in entry.detail

    assert far.type(START) == ""
    far.send()
    far.approve()
    far.tick_until_state("training")
    assert far.jobs() == 1
    _ready(far, with_addresses(tickets_csv(90)))
    assert "personal data" in far.type(f"{START} epochs=2"), "a new version needs its own waiver"


@pytest.mark.deep
def test_no_waiver_is_needed_without_personal_data_or_on_this_machine(
    world: World,
) -> None:
    _ready(world, with_addresses(tickets_csv()))
    assert world.type(START) == ""
    assert world.newest_run().state == "awaiting_approval"
    world.type("/finetune cancel 1")
    world.rules.provider_is_remote = True
    world.restart()
    _ready(world, tickets_csv())
    assert world.type(START) == ""
    world.send()
    assert not world.has_button("record_waiver")


def test_a_cluster_counts_as_elsewhere_until_the_settings_say_that_it_is_ours(
    make_world: Callable[[Rules], World],
) -> None:
    world = make_world(Rules(more=ON_RAY.format("")))
    _ready(world, with_addresses(tickets_csv()))
    answer = world.type(START_ON_RAY)
    assert "can go to the Ray cluster at http://ray-head:8265 only after an approver" in answer
    assert world.store.runs.newest() == []


def test_the_card_names_the_teams_own_cluster(make_world: Callable[[Rules], World]) -> None:
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


def test_a_waiver_card_survives_restarts(far: World) -> None:
    _ready(far, with_addresses(tickets_csv()))
    far.type(START)
    far.restart()
    far.send()
    _waive(far)
    far.restart()
    assert far.type(START, user=ANA) == ""
    wait_until(lambda: far.store.runs.newest(), "the run")
