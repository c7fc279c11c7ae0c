"""Customers' words go where they were asked, and leave when a team wants them gone."""

from __future__ import annotations

from bot.demo.stand_in import too_many
from tests.bot.test_story_cleaning import flawed_csv
from tests.bot.world import CLEO, DORA, HR, World


def test_two_cleaned_files_that_wait_go_each_into_its_own_channel(world: World) -> None:
    world.upload_and_check(flawed_csv())
    world.upload("hr.csv", flawed_csv().replace("Order", "Absence"), channel=HR, called="hr")
    world.until(lambda: world.dataset().state == "refused", "the second check")
    world.send()
    world.slack.fail("files.getUploadURLExternal", too_many(60))
    world.click(DORA, "post_cleaned", channel=HR)
    world.until(
        lambda: not world.store.cleanings.waiting() and world.store.outbox.waiting(), "the first file"
    )
    world.click(CLEO, "post_cleaned")
    world.until(lambda: "tickets-cleaned.csv" in world.files(), "the second file")
    assert "hr-cleaned.csv" not in world.files(HR)
    world.pass_time(60)
    world.until(lambda: "hr-cleaned.csv" in world.files(HR), "the first file's second try")
    assert "Absence" not in world.posted("tickets-cleaned.csv")
    assert "Order" not in world.posted("hr-cleaned.csv", HR.id)
    world.tick()
    assert list((world.service.settings.data / "cleaned").iterdir()) == [], "they were sent, so they are gone"
