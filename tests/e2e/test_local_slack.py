"""local-slack, driven over its control API and its page in Chromium, against a small Bolt app in Socket Mode.

It tests the two drivers that the demo and test_story.py use.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slack_bolt import App
from slack_bolt.adapter.socket_mode.websocket_client import SocketModeHandler
from slack_sdk import WebClient

from demo.local_slack import LocalSlack, find_local_slack
from demo.people import ANA, BEN, TICKETS
from demo.workspace import NotAnswered, Unsupported, WorkspaceError
from tests.patience import wait_until
from tests.peers.browser import Visitor, open_page

pytestmark = pytest.mark.e2e

SHOTS = Path(__file__).parents[1] / "screenshots" / "local-slack"
Json = dict[str, Any]


def plain(text: str) -> Json:
    return {"type": "plain_text", "text": text}


def raw(text: str) -> Json:
    return {"type": "raw_text", "text": text}


def option(value: str) -> Json:
    return {"text": plain(value.upper()), "value": value}


def chosen(state: Json) -> list[str]:
    return [option["value"] for option in state["selected_options"]]


def field(name: str, element: Json, **more: Any) -> Json:
    return {"type": "input", "block_id": name, "label": plain(name.title()), "element": element, **more}


MODAL = {
    "type": "modal",
    "callback_id": "upload",
    "title": plain("Upload data"),
    "submit": plain("Check"),
    "close": plain("Cancel"),
    "private_metadata": "kept",
    "blocks": [
        field("file", {"type": "file_input", "action_id": "f", "max_files": 1, "filetypes": ["csv"]}),
        field("name", {"type": "plain_text_input", "action_id": "n", "initial_value": "tickets"}),
        field(
            "kind",
            {
                "type": "static_select",
                "action_id": "k",
                "options": [option("csv"), option("jsonl")],
                "initial_option": option("csv"),
            },
        ),
        field(
            "models",
            {
                "type": "multi_static_select",
                "action_id": "m",
                "options": [option("one"), option("two"), option("three")],
            },
            optional=True,
        ),
        field(
            "candidates",
            {
                "type": "checkboxes",
                "action_id": "r",
                "options": [option("zero"), option("kshot")],
                "initial_options": [option("zero"), option("kshot")],
            },
            optional=True,
        ),
        field(
            "channel",
            {"type": "conversations_select", "action_id": "c", "default_to_current_conversation": True},
        ),
    ],
}
LOADING = {
    "type": "modal",
    "callback_id": "loading",
    "title": plain("Loading"),
    "blocks": [{"type": "section", "text": plain("One moment")}],
}
CONFIRM = {
    "title": plain("Approve?"),
    "text": {"type": "mrkdwn", "text": "This spends *$25*."},
    "confirm": plain("Spend $25"),
    "deny": plain("Not now"),
}
CARD: list[Json] = [
    {"type": "header", "text": plain("Ana asks to tune tickets")},
    {
        "type": "section",
        "fields": [{"type": "mrkdwn", "text": "*Cost*\n$25"}, {"type": "mrkdwn", "text": "*Rows*\n812"}],
    },
    {"type": "context", "elements": [{"type": "mrkdwn", "text": "Run 7 · waits for Ben"}]},
    {
        "type": "table",
        "rows": [[raw("Month"), raw("Cost")], [raw("before"), raw("$310")], [raw("after"), raw("$25")]],
    },
    {
        "type": "actions",
        "elements": [
            {
                "type": "button",
                "action_id": "approve",
                "value": "7",
                "style": "primary",
                "text": plain("Approve"),
                "confirm": CONFIRM,
            },
            {"type": "button", "action_id": "reject", "value": "7", "text": plain("Reject")},
        ],
    },
]


class Bot:
    """The app behind the drivers. `views` are the submissions that it received, `shared` the bytes of shared files."""

    def __init__(self, slack: LocalSlack) -> None:
        self.client = WebClient(slack.access.bot_token, base_url=slack.access.api_url)
        self.views: list[Json] = []
        self.shared: list[bytes] = []
        self.app = App(client=self.client)
        self.app.command("/finetune")(self.command)
        self.app.view("upload")(self.submitted)
        self.app.action(re.compile("approve|reject|refresh"))(self.clicked)
        self.app.event("file_shared")(self.file_shared)
        self.app.event("app_home_opened")(self.home)
        self.app.event("message")(lambda: None)
        web = WebClient(slack.access.app_token, base_url=slack.access.api_url)
        self.handler = SocketModeHandler(self.app, slack.access.app_token, web_client=web)

    def command(self, ack: Any, command: Json, client: WebClient) -> None:
        match command["text"]:
            case "upload":
                ack()
                view = client.views_open(trigger_id=command["trigger_id"], view=LOADING)["view"]
                client.views_update(view_id=view["id"], hash=view["hash"], view=MODAL)
            case "card":
                ack()
                client.chat_postMessage(channel=command["channel_id"], text="card", blocks=CARD)
            case "plot":
                ack()
                self.plot(command["channel_id"])
            case text:
                ack(response_type="ephemeral", text=f"You said {text}")

    def plot(self, channel: str) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure

        figure, png = Figure(figsize=(4, 2)), io.BytesIO()
        figure.subplots().plot([3, 2, 1])
        figure.savefig(png)
        ts = self.client.chat_postMessage(channel=channel, text="Run 7 has finished")["ts"]
        self.client.files_upload_v2(
            channel=channel, thread_ts=ts, filename="loss.png", title="Loss", content=png.getvalue()
        )

    def submitted(self, ack: Any, view: Json) -> None:
        self.views.append(view)
        if view["state"]["values"]["name"]["n"]["value"] == "taken":
            ack(response_action="errors", errors={"name": "That name is taken."})
        else:
            ack()

    def clicked(self, ack: Any, body: Json, client: WebClient) -> None:
        ack()
        if body["actions"][0]["action_id"] == "refresh":
            client.views_publish(user_id=body["user"]["id"], view=home_view("Refreshed"))
        else:
            text = f"Decided: {body['actions'][0]['action_id']} by <@{body['user']['id']}>"
            where = {"channel": body["channel"]["id"], "ts": body["message"]["ts"]}
            client.chat_update(
                **where, text=text, blocks=[{"type": "section", "text": {"type": "mrkdwn", "text": text}}]
            )

    def file_shared(self, event: Json, client: WebClient) -> None:
        from urllib.request import Request, urlopen

        url = client.files_info(file=event["file_id"])["file"]["url_private_download"]
        request = Request(url, headers={"Authorization": f"Bearer {client.token}"})  # noqa: S310
        with urlopen(request, timeout=5) as response:  # noqa: S310
            self.shared.append(response.read())

    def home(self, event: Json, client: WebClient) -> None:
        client.views_publish(user_id=event["user"], view=home_view("Nothing runs"))


def home_view(text: str) -> Json:
    button = {"type": "button", "action_id": "refresh", "text": plain("Refresh")}
    return {
        "type": "home",
        "blocks": [{"type": "header", "text": plain(text)}, {"type": "actions", "elements": [button]}],
    }


@pytest.fixture
def slack(tmp_path: Path) -> Iterator[LocalSlack]:
    binary = find_local_slack()
    assert binary is not None, "local-slack is not installed: `make e2e` does it, or set FINETUNE_LOCAL_SLACK"
    with LocalSlack(binary, tmp_path) as slack:
        yield slack


@pytest.fixture
def bot(slack: LocalSlack) -> Iterator[Bot]:
    bot = Bot(slack)
    bot.handler.connect()
    slack.wait_for_bot()
    yield bot
    bot.handler.close()


@pytest.fixture
def page(slack: LocalSlack, bot: Bot) -> Iterator[Visitor]:
    with open_page(slack.url) as page:
        yield page


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.csv"
    path.write_text("text,label\nwhere is my parcel,delivery\n")
    return path


# Over the control API.


def test_without_a_bot_a_command_is_not_answered(slack: LocalSlack) -> None:
    with pytest.raises(NotAnswered, match="no bot is connected"):
        slack.command(ANA.id, TICKETS.id, "/finetune help")


def test_only_the_sender_sees_a_commands_answer(slack: LocalSlack, bot: Bot) -> None:
    slack.command(ANA.id, TICKETS.id, "/finetune tell @ben")
    (reply,) = slack.ephemerals(ANA.id)
    assert (reply.text, reply.only_for) == (f"You said tell <@{BEN.id}|ben>", ANA.id)
    assert slack.messages(TICKETS.id) == slack.ephemerals(BEN.id) == ()


def test_a_modal_is_filled_and_submitted(slack: LocalSlack, bot: Bot, csv: Path) -> None:
    slack.command(ANA.id, TICKETS.id, "/finetune upload")
    wait_until(lambda: (view := slack.view(ANA.id)) and view.callback_id == "upload", "the second view")
    assert set(slack.submit_modal(ANA.id, {}).errors) == {"file", "channel"}
    answers = {"file": [slack.upload(ANA.id, csv)], "channel": TICKETS.id}
    assert slack.submit_modal(ANA.id, {**answers, "name": "taken"}).errors == {"name": "That name is taken."}
    assert slack.submit_modal(ANA.id, answers).closed
    values = bot.views[-1]["state"]["values"]
    assert values["name"]["n"]["value"] == "tickets"
    assert values["kind"]["k"]["selected_option"]["value"] == "csv"
    assert values["file"]["f"]["files"][0]["name"] == "tickets.csv"
    assert bot.views[-1]["private_metadata"] == "kept"


def test_a_click_edits_the_card(slack: LocalSlack, bot: Bot) -> None:
    slack.command(ANA.id, TICKETS.id, "/finetune card")
    (card,) = wait_until(lambda: slack.messages(TICKETS.id), "the card")
    slack.click(BEN.id, TICKETS.id, card.ts, "approve")
    wait_until(lambda: slack.messages(TICKETS.id)[0].edits == 1, "the edit")
    assert slack.messages(TICKETS.id)[0].text == f"Decided: approve by <@{BEN.id}>"


def test_files_threads_and_the_home_work(slack: LocalSlack, bot: Bot, csv: Path) -> None:
    slack.upload(ANA.id, csv, channel=slack.dm(ANA.id))
    assert wait_until(lambda: bot.shared, "the file")[0] == csv.read_bytes()
    slack.command(ANA.id, TICKETS.id, "/finetune plot")
    parent, reply = wait_until(
        lambda: slack.messages(TICKETS.id)[1:] and slack.messages(TICKETS.id), "the plot"
    )
    assert (reply.thread_ts, reply.files[0].mimetype) == (parent.ts, "image/png")
    slack.open_home(BEN.id)
    wait_until(lambda: slack.home(BEN.id), "the home")
    slack.press(BEN.id, "refresh", home=True)
    wait_until(lambda: "Refreshed" in str(slack.home(BEN.id)), "the new home")


def test_unsupported_actions_are_refused(slack: LocalSlack, bot: Bot) -> None:
    with pytest.raises(Unsupported, match="no message shortcuts"):
        slack.message_shortcut(ANA.id, TICKETS.id, "1.0", "use_as_training_data")
    with pytest.raises(WorkspaceError, match="no message"):
        slack.click(ANA.id, TICKETS.id, "1.0", "approve")


# In the browser.


def test_a_person_fills_the_modal_in_the_page(page: Visitor, bot: Bot, csv: Path) -> None:
    page.act_as("Ana Reyes")
    page.go_to("ml-tickets")
    page.type("/finetune upload")
    page.wait_for_modal("Upload data")
    page.submit()
    assert page.complaints() == ["Please complete this required field."]
    page.fill({"File": csv, "Name": "taken", "Kind": "JSONL"})
    page.screenshot(SHOTS / "modal.png")
    page.submit()
    wait_until(lambda: bot.views, "the submission")
    assert page.complaints() == ["name: That name is taken."]
    page.fill({"Name": "our tickets"})
    page.submit()
    page.wait_for_no_modal()
    values = bot.views[-1]["state"]["values"]
    assert values["name"]["n"]["value"] == "our tickets"
    assert values["kind"]["k"]["selected_option"]["value"] == "jsonl"
    assert values["channel"]["c"]["selected_conversation"] == TICKETS.id
    (file,) = values["file"]["f"]["files"]
    assert (file["name"], file["user"]) == ("tickets.csv", ANA.id)


def test_initial_values_are_sent_untouched(page: Visitor, bot: Bot, csv: Path) -> None:
    page.type("/finetune upload")
    page.wait_for_modal("Upload data")
    page.fill({"File": csv})
    assert page.ticked("Candidates") == 2
    page.submit()
    page.wait_for_no_modal()
    values = bot.views[-1]["state"]["values"]
    assert values["name"]["n"]["value"] == "tickets"
    assert values["kind"]["k"]["selected_option"]["value"] == "csv"
    assert values["models"]["m"]["selected_options"] == []
    assert chosen(values["candidates"]["r"]) == ["zero", "kshot"]


def test_several_options_are_chosen_and_boxes_unticked(page: Visitor, bot: Bot, csv: Path) -> None:
    page.type("/finetune upload")
    page.wait_for_modal("Upload data")
    page.fill({"File": csv, "Models": "TWO"})
    page.untick("Candidates", "ZERO")
    page.submit()
    page.wait_for_no_modal()
    values = bot.views[-1]["state"]["values"]
    assert chosen(values["models"]["m"]) == ["two"]
    assert chosen(values["candidates"]["r"]) == ["kshot"]


def test_a_person_approves_after_confirming(page: Visitor) -> None:
    page.type("/finetune card")
    page.act_as("Ben Okafor")
    page.wait_for("Ana asks to tune tickets")
    page.wait_for("$310")
    page.screenshot(SHOTS / "card.png")
    page.click("Approve", inside="Ana asks to tune tickets")
    page.screenshot(SHOTS / "confirm.png")
    assert "This spends $25." in page.confirm("Not now")
    page.click("Approve", inside="Ana asks to tune tickets")
    page.confirm("Spend $25")
    page.wait_for("Decided: approve by @Ben Okafor")


def test_an_ephemeral_is_visible_to_its_reader_only(page: Visitor) -> None:
    page.act_as("Ana Reyes")
    page.type("/finetune help")
    page.wait_for("You said help")
    page.act_as("Ben Okafor")
    wait_until(lambda: not page.sees("You said help"), "it to vanish")
    page.act_as("Ana Reyes")
    page.wait_for("You said help")


def test_a_thread_shows_a_plot_and_the_composer_sends_a_file(page: Visitor, bot: Bot, csv: Path) -> None:
    page.type("/finetune plot")
    page.wait_for("1 reply")
    page.open_thread("Run 7 has finished")
    page.wait_for("Loss")
    page.screenshot(SHOTS / "thread.png")
    assert page.broken_images() == []
    page.go_to("Ana Reyes")
    page.attach(csv, "our tickets")
    assert wait_until(lambda: bot.shared, "the file")[0] == csv.read_bytes()


def test_the_home_is_shown_and_its_button_works(page: Visitor) -> None:
    page.go_to("Finetune")
    page.wait_in_home("Nothing runs")
    page.press_in_home("Refresh")
    page.wait_in_home("Refreshed")
    page.screenshot(SHOTS / "home.png")
