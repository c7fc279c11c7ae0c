"""The Slack emulator behaves as Slack does, seen from slack_sdk and Bolt."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slack_bolt import App
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from demo.people import ANA, BEN, TICKETS
from demo.slack_emulator import SlackEmulator, broken, cut_off, refused, slow, too_many
from demo.slack_emulator.delivery import BotClient, signature
from demo.workspace import NotAnswered, PostedMessage, WorkspaceError
from tests.demo.bolt import bolt_app, serving
from tests.patience import wait_until

PLAIN = {"type": "plain_text", "text": "Go"}
BUTTON = {"type": "button", "action_id": "approve", "value": "run-1", "text": PLAIN}
CARD = [{"type": "actions", "elements": [BUTTON]}]


def upload_view(**changes: Any) -> dict[str, Any]:
    blocks = [
        _input("file", {"type": "file_input", "action_id": "f", "max_files": 1}),
        _input("name", {"type": "plain_text_input", "action_id": "n", "max_length": 20}),
        _input(
            "kind", {"type": "static_select", "action_id": "k", "options": [_option("csv"), _option("jsonl")]}
        ),
        _input(
            "note",
            {"type": "plain_text_input", "action_id": "o", "initial_value": "as it was"},
            optional=True,
        ),
    ]
    frame = {
        "type": "modal",
        "callback_id": "upload",
        "title": PLAIN,
        "submit": PLAIN,
        "private_metadata": "m",
    }
    return {**frame, "blocks": blocks, **changes}


def _input(name: str, element: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "input", "block_id": name, "label": PLAIN, "element": element, **more}


def _option(value: str) -> dict[str, Any]:
    return {"text": {"type": "plain_text", "text": value}, "value": value}


@pytest.fixture
def slack() -> Iterator[SlackEmulator]:
    with SlackEmulator(groups={"S0APPROVERS": (BEN.id,)}, patience=0.3) as slack:
        yield slack


@pytest.fixture
def app(slack: SlackEmulator) -> Iterator[App]:
    app = bolt_app(slack)
    with serving(app) as url:
        slack.deliver_to(url)
        yield app


@pytest.fixture
def client(slack: SlackEmulator) -> WebClient:
    return WebClient(slack.access.bot_token, base_url=slack.access.api_url, retry_handlers=[])


def only(messages: tuple[PostedMessage, ...]) -> PostedMessage:
    assert len(messages) == 1, messages
    return messages[0]


# People's actions reach Bolt.


def test_bolt_accepts_the_signature_and_only_the_sender_sees_the_ack(slack: SlackEmulator, app: App) -> None:
    app.command("/finetune")(
        lambda ack, command: ack(f"you said {command['text']} in {command['channel_name']}")
    )
    slack.command(ANA.id, TICKETS.id, "/finetune estimate tickets")
    reply = only(slack.ephemerals(ANA.id))
    assert (reply.text, reply.only_for) == ("you said estimate tickets in ml-tickets", ANA.id)
    assert slack.messages(TICKETS.id) == slack.ephemerals(BEN.id) == ()


def test_a_wrong_signature_is_refused_by_bolt(slack: SlackEmulator, app: App) -> None:
    app.command("/finetune")(lambda ack: ack())
    with serving(app) as url:
        assert BotClient(url, "another secret").form("/finetune", {"command": "/finetune"}).status == 401
    assert signature("s", b"x", 100) == signature("s", b"x", 100) != signature("s", b"y", 100)


def test_names_in_a_command_are_escaped(slack: SlackEmulator, app: App) -> None:
    app.command("/finetune")(lambda ack, command: ack(command["text"]))
    slack.command(ANA.id, TICKETS.id, "/finetune ask @ben in #ml-tickets not@ben")
    text = only(slack.ephemerals(ANA.id)).text
    assert text == f"ask <@{BEN.id}|ben> in <#{TICKETS.id}|ml-tickets> not@ben"


def test_a_person_sees_that_a_bot_is_late_or_broken(slack: SlackEmulator, app: App) -> None:
    app.command("/slow")(lambda ack: (time.sleep(0.5), ack()))
    with pytest.raises(NotAnswered, match=r"/slow: the bot gave no answer in 0\.\d s"):
        slack.command(ANA.id, TICKETS.id, "/slow")
    with pytest.raises(NotAnswered, match="HTTP 404"):
        slack.command(ANA.id, TICKETS.id, "/unknown")


def test_a_modal_is_opened_filled_and_submitted(slack: SlackEmulator, app: App, tmp_path: Path) -> None:
    seen: list[Any] = []
    app.command("/finetune")(lambda ack, body, client: (ack(), client.views_open(**_opened(body))))
    app.view("upload")(lambda ack, view: (seen.append(view), ack()))
    slack.command(ANA.id, TICKETS.id, "/finetune upload")
    modal = wait_until(lambda: slack.view(ANA.id), "the modal")
    assert (modal.callback_id, modal.private_metadata) == ("upload", "m")
    assert (modal.title, modal.submit) == ("Go", "Go")
    path = tmp_path / "tickets.csv"
    path.write_text("text,label\n")
    file = slack.upload(ANA.id, path)
    answers = {"file": [file], "name": "tickets", "kind": "csv"}
    assert slack.submit_modal(ANA.id, answers).closed
    values = seen[0]["state"]["values"]
    assert values["name"]["n"] == {"type": "plain_text_input", "value": "tickets"}
    assert values["kind"]["k"]["selected_option"]["value"] == "csv"
    assert values["note"]["o"]["value"] == "as it was"
    assert [uploaded["id"] for uploaded in values["file"]["f"]["files"]] == [file]
    assert slack.view(ANA.id) is None


def _opened(body: dict[str, Any]) -> dict[str, Any]:
    return {"trigger_id": body["trigger_id"], "view": upload_view()}


def test_slack_rejects_an_incomplete_form(slack: SlackEmulator, app: App) -> None:
    app.command("/finetune")(lambda ack, body, client: (client.views_open(**_opened(body)), ack()))
    slack.command(ANA.id, TICKETS.id, "/finetune upload")
    shown = slack.submit_modal(ANA.id, {"name": "x" * 21})
    assert shown.errors == {
        "file": "Please complete this required field.",
        "name": "Please use at most 20 characters.",
        "kind": "Please complete this required field.",
    }
    with pytest.raises(WorkspaceError, match="offers no 'png': it offers csv, jsonl"):
        slack.submit_modal(ANA.id, {"kind": "png"})
    with pytest.raises(WorkspaceError, match="has no field title"):
        slack.submit_modal(ANA.id, {"title": "x"})


@pytest.mark.deep
@pytest.mark.parametrize(
    ("ack", "title", "errors"),
    [
        ({"response_action": "errors", "errors": {"name": "taken"}}, "Go", {"name": "taken"}),
        ({"response_action": "update", "view": upload_view(title={**PLAIN, "text": "Next"})}, "Next", {}),
        ({"response_action": "push", "view": upload_view(title={**PLAIN, "text": "Over"})}, "Over", {}),
        ({"response_action": "clear"}, None, {}),
    ],
)
def test_an_ack_changes_the_modal(
    slack: SlackEmulator,
    app: App,
    tmp_path: Path,
    ack: dict[str, Any],
    title: str | None,
    errors: dict[str, str],
) -> None:
    answer = ack
    app.command("/finetune")(lambda ack, body, client: (client.views_open(**_opened(body)), ack()))
    app.view("upload")(lambda ack: ack(**answer))
    slack.command(ANA.id, TICKETS.id, "/finetune upload")
    (tmp_path / "a.csv").write_text("a")
    file = slack.upload(ANA.id, tmp_path / "a.csv")
    submission = slack.submit_modal(ANA.id, {"file": [file], "name": "n", "kind": "csv"})
    modal = slack.view(ANA.id)
    assert (modal and modal.title, submission.errors, submission.closed) == (title, errors, title is None)


def test_a_click_carries_the_button_and_its_message(
    slack: SlackEmulator, app: App, client: WebClient
) -> None:
    seen: list[Any] = []
    app.action("approve")(lambda ack, body, respond: (ack(), seen.append(body), respond(**_decided())))
    ts = client.chat_postMessage(channel=TICKETS.id, text="approve?", blocks=CARD)["ts"]
    slack.click(BEN.id, TICKETS.id, ts, "approve")
    wait_until(lambda: slack.messages(TICKETS.id)[0].edits == 1, "the edit")
    assert only(slack.messages(TICKETS.id)).text == "approved by Ben"
    (body,) = seen
    assert (body["actions"][0]["value"], body["user"]["id"], body["message"]["ts"]) == ("run-1", BEN.id, ts)
    with pytest.raises(WorkspaceError, match="there is no approve to press, but nothing"):
        slack.click(BEN.id, TICKETS.id, ts, "approve")


def _decided() -> dict[str, Any]:
    return {"replace_original": True, "text": "approved by Ben"}


def test_a_message_shortcut_carries_the_files(slack: SlackEmulator, app: App, tmp_path: Path) -> None:
    seen: list[Any] = []
    app.shortcut("use_as_training_data")(lambda ack, shortcut: (ack(), seen.append(shortcut)))
    (tmp_path / "a.jsonl").write_text("{}")
    file = slack.upload(ANA.id, tmp_path / "a.jsonl", channel=TICKETS.id, text="our tickets")
    message = only(slack.messages(TICKETS.id))
    slack.message_shortcut(BEN.id, TICKETS.id, message.ts, "use_as_training_data")
    assert seen[0]["message"]["files"][0]["id"] == file == message.files[0].id
    assert seen[0]["user"]["id"] == BEN.id


def test_events_reach_the_bot(slack: SlackEmulator, app: App, client: WebClient, tmp_path: Path) -> None:
    app.event("file_shared")(
        lambda event, client: client.chat_postMessage(channel=event["channel_id"], text="file")
    )
    app.event("app_mention")(lambda event, say: say("mention", thread_ts=event["ts"]))
    app.event("app_home_opened")(
        lambda event, client: client.views_publish(user_id=event["user"], view=_home())
    )
    (tmp_path / "a.csv").write_text("a")
    slack.upload(ANA.id, tmp_path / "a.csv", channel=slack.dm(ANA.id))
    mention = slack.say(ANA.id, TICKETS.id, f"hello <@{slack.access.bot_user}>")
    slack.open_home(BEN.id)
    home = wait_until(lambda: slack.home(BEN.id), "the home")
    assert home.blocks[0]["text"]["text"] == "Go"
    assert wait_until(lambda: slack.messages(slack.dm(ANA.id))[1:], "the answer")[0].text == "file"
    assert wait_until(lambda: slack.messages(TICKETS.id)[1:], "the answer")[0].thread_ts == mention


def _home() -> dict[str, Any]:
    return {"type": "home", "blocks": [{"type": "header", "text": PLAIN}]}


def test_an_event_can_be_repeated(slack: SlackEmulator, app: App) -> None:
    seen: list[str] = []
    app.event("app_home_opened")(lambda body: seen.append(body["event_id"]))
    slack.open_home(ANA.id)
    slack.repeat(slack.deliveries[-1])
    wait_until(lambda: len(seen) == 2, "both")
    assert seen[0] == seen[1]


# Files.


def test_the_bot_reads_a_persons_file_only_with_its_token(
    slack: SlackEmulator, client: WebClient, tmp_path: Path
) -> None:
    (tmp_path / "tickets.csv").write_bytes("text,label\nnaïve,x\n".encode())
    body = client.files_info(file=slack.upload(ANA.id, tmp_path / "tickets.csv"))["file"]
    assert (body["name"], body["mimetype"], body["user"]) == ("tickets.csv", "text/csv", ANA.id)
    assert _read(body["url_private_download"], client.token) == (tmp_path / "tickets.csv").read_bytes()
    assert b"Sign in" in _read(body["url_private_download"], None)
    assert b"Sign in" in _read(body["url_private_download"], "xoxb-other")


def _read(url: str, token: str | None) -> bytes:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
        content: bytes = response.read()
    return content


def test_files_upload_v2_puts_a_png_into_a_thread(slack: SlackEmulator, client: WebClient) -> None:
    ts = client.chat_postMessage(channel=TICKETS.id, text="run 1")["ts"]
    png = b"\x89PNG\r\n\x1a\n" + bytes(2_000)
    client.files_upload_v2(channel=TICKETS.id, thread_ts=ts, filename="loss.png", title="Loss", content=png)
    reply = slack.messages(TICKETS.id)[1]
    assert (reply.thread_ts, reply.files[0].mimetype, reply.files[0].size) == (ts, "image/png", len(png))


# As strict as Slack.


def test_slacks_refusals(client: WebClient) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("chat.nonsense", {}, "unknown_method"),
        ("chat.postMessage", {"channel": "C0NOWHERE", "text": "x"}, "channel_not_found"),
        ("chat.postMessage", {"channel": TICKETS.id}, "no_text"),
        ("chat.postMessage", {"channel": TICKETS.id, "text": "x", "thread_ts": "1.0"}, "thread_not_found"),
        ("chat.postEphemeral", {"channel": TICKETS.id, "text": "x", "user": "U0GONE"}, "user_not_in_channel"),
        ("chat.update", {"channel": TICKETS.id, "text": "x", "ts": "1.0"}, "message_not_found"),
        ("chat.getPermalink", {"channel": TICKETS.id, "message_ts": "1.0"}, "message_not_found"),
        ("views.open", {"trigger_id": "made up", "view": upload_view()}, "invalid_trigger_id"),
        ("views.update", {"view_id": "V1", "view": upload_view()}, "not_found"),
        ("views.publish", {"user_id": ANA.id, "view": upload_view()}, "invalid_arguments"),
        ("files.info", {"file": "F1"}, "file_not_found"),
        ("files.completeUploadExternal", {"files": [{"id": "F1"}]}, "file_not_found"),
        ("users.info", {"user": "U1"}, "user_not_found"),
        ("usergroups.users.list", {"usergroup": "S1"}, "no_such_subteam"),
    ]
    for method, args, error in cases:
        with pytest.raises(SlackApiError) as refusal:
            client.api_call(method, json=args)
        assert refusal.value.response["error"] == error, method


def test_no_token_a_wrong_token_and_a_missing_scope_are_three_errors(
    slack: SlackEmulator, client: WebClient
) -> None:
    for token, error in (("", "not_authed"), ("xoxb-other", "invalid_auth")):
        with pytest.raises(SlackApiError, match=error):
            WebClient(token or None, base_url=slack.access.api_url).auth_test()
    with SlackEmulator(scopes=["chat:write"]) as limited:
        with pytest.raises(SlackApiError) as refusal:
            WebClient(limited.access.bot_token, base_url=limited.access.api_url).users_list()
        assert (refusal.value.response["error"], refusal.value.response["needed"]) == (
            "missing_scope",
            "users:read",
        )
    assert "chat:write" in client.auth_test().headers["X-OAuth-Scopes"]


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (
            {"type": "header", "text": {"type": "plain_text", "text": "x" * 151}},
            "/blocks/0/text/text: must be less",
        ),
        ({"type": "chart"}, "unsupported type: chart"),
        ({"type": "section", "fields": [PLAIN] * 11}, "no more than 10 items"),
        (
            {"type": "actions", "elements": [{**BUTTON, "text": {"type": "plain_text", "text": "x" * 76}}]},
            "less than 76",
        ),
        ({"type": "actions", "elements": [BUTTON, BUTTON]}, "used twice"),
        ({"type": "data_table", "rows": [[PLAIN], [PLAIN]]}, "caption: missing"),
        (
            {"type": "plan", "title": "p", "tasks": [{"task_id": "1", "title": "t", "status": "done"}]},
            "status: one of",
        ),
    ],
)
def test_blocks_over_the_limits_are_refused(client: WebClient, block: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SlackApiError) as refusal:
        client.chat_postMessage(channel=TICKETS.id, text="x", blocks=[block])
    assert refusal.value.response["error"] == "invalid_blocks"
    assert complaint in " ".join(refusal.value.response["response_metadata"]["messages"])


@pytest.mark.deep
def test_a_trigger_works_once_and_expires(slack: SlackEmulator, app: App, client: WebClient) -> None:
    triggers: list[str] = []
    app.command("/finetune")(lambda ack, body: (ack(), triggers.append(body["trigger_id"])))
    slack.command(ANA.id, TICKETS.id, "/finetune")
    slack.command(ANA.id, TICKETS.id, "/finetune")
    client.views_open(trigger_id=triggers[0], view=upload_view())
    with pytest.raises(SlackApiError, match="exchanged_trigger_id"):
        client.views_open(trigger_id=triggers[0], view=upload_view())
    time.sleep(0.35)
    with pytest.raises(SlackApiError, match="expired_trigger_id"):
        client.views_open(trigger_id=triggers[1], view=upload_view())


def test_a_view_is_updated_under_its_id_and_only_with_the_latest_hash(
    slack: SlackEmulator, app: App, client: WebClient
) -> None:
    views: list[Any] = []
    app.command("/finetune")(
        lambda ack, body, client: (views.append(client.views_open(**_opened(body))["view"]), ack())
    )
    slack.command(ANA.id, TICKETS.id, "/finetune")
    (view,) = views
    second = client.views_update(
        view_id=view["id"], hash=view["hash"], view=upload_view(callback_id="second")
    )["view"]
    assert second["id"] == view["id"]
    with pytest.raises(SlackApiError, match="hash_conflict"):
        client.views_update(view_id=view["id"], hash=view["hash"], view=upload_view())
    modal = slack.view(ANA.id)
    assert modal and modal.callback_id == "second"


def test_a_response_url_works_five_times(slack: SlackEmulator, app: App) -> None:
    statuses: list[int] = []
    app.command("/finetune")(
        lambda ack, respond: (statuses.extend(respond("x").status_code for _ in range(6)), ack())
    )
    slack.command(ANA.id, TICKETS.id, "/finetune")
    assert statuses == [200] * 5 + [404]


def test_an_archived_channel_and_a_bot_that_was_removed(slack: SlackEmulator, client: WebClient) -> None:
    slack.remove_bot(TICKETS.id)
    with pytest.raises(SlackApiError, match="not_in_channel"):
        client.chat_postMessage(channel=TICKETS.id, text="x")
    slack.archive(TICKETS.id)
    with pytest.raises(SlackApiError, match="is_archived"):
        client.chat_postMessage(channel=TICKETS.id, text="x")
    assert client.conversations_info(channel=TICKETS.id)["channel"]["is_archived"]


def test_people_groups_and_pages(client: WebClient) -> None:
    assert client.usergroups_users_list(usergroup="S0APPROVERS")["users"] == [BEN.id]
    pages = [page["members"] for page in client.users_list(limit=2)]
    assert [len(page) for page in pages] == [2, 1]
    dm = client.conversations_open(users=ANA.id)["channel"]["id"]
    assert client.conversations_info(channel=dm)["channel"]["is_im"]
    assert client.conversations_members(channel=TICKETS.id)["members"][:2] == [ANA.id, BEN.id]


# Faults.


def test_a_rate_limited_method_says_when_to_retry(slack: SlackEmulator, client: WebClient) -> None:
    slack.fail("chat.postMessage", too_many(7), times=2)
    for _ in range(2):
        with pytest.raises(SlackApiError) as limited:
            client.chat_postMessage(channel=TICKETS.id, text="x")
        response = limited.value.response
        assert (response.status_code, response.headers["Retry-After"]) == (429, "7")
    client.chat_postMessage(channel=TICKETS.id, text="x")
    assert [call.status for call in slack.calls("chat.postMessage")] == [429, 429, 200]
    assert len(slack.messages(TICKETS.id)) == 1


def test_a_permanent_fault_lasts_until_it_is_cleared(slack: SlackEmulator, client: WebClient) -> None:
    slack.fail("*", refused("account_inactive"), times=None)
    for _ in range(3):
        with pytest.raises(SlackApiError, match="account_inactive"):
            client.auth_test()
    slack.clear_faults()
    assert client.auth_test()["ok"]


def test_a_fault_can_affect_one_message_or_channel(slack: SlackEmulator, client: WebClient) -> None:
    slack.fail("chat.postMessage", refused("internal_error"), times=None, text="cursed")
    slack.fail("*", refused("is_archived"), times=None, channel=slack.dm(ANA.id))
    for _ in range(2):
        with pytest.raises(SlackApiError, match="internal_error"):
            client.chat_postMessage(channel=TICKETS.id, text="The cursed one")
        with pytest.raises(SlackApiError, match="is_archived"):
            client.chat_postMessage(channel=slack.dm(ANA.id), text="Another")
        assert client.chat_postMessage(channel=TICKETS.id, text="Another")["ok"]


def test_an_edit_can_miss_its_message_once(slack: SlackEmulator, client: WebClient) -> None:
    ts = client.chat_postMessage(channel=TICKETS.id, text="x")["ts"]
    slack.fail("chat.update", refused("message_not_found"))
    with pytest.raises(SlackApiError, match="message_not_found"):
        client.chat_update(channel=TICKETS.id, ts=ts, text="y")
    client.chat_update(channel=TICKETS.id, ts=ts, text="z")
    assert only(slack.messages(TICKETS.id)).text == "z"


def test_a_failed_answer_may_hide_a_finished_call(slack: SlackEmulator, client: WebClient) -> None:
    slack.fail("chat.postMessage", broken(500).after_doing())
    with pytest.raises(SlackApiError):
        client.chat_postMessage(channel=TICKETS.id, text="it is there")
    assert only(slack.messages(TICKETS.id)).text == "it is there"


def test_connections_can_be_cut_and_answers_delayed(slack: SlackEmulator, client: WebClient) -> None:
    slack.fail("auth.test", cut_off())
    with pytest.raises(OSError):
        client.auth_test()
    slack.fail("auth.test", slow(0.4))
    with pytest.raises(OSError):
        WebClient(client.token, base_url=client.base_url, timeout=0.1, retry_handlers=[]).auth_test()  # type: ignore[arg-type]
    wait_until(lambda: slack.calls("auth.test")[1:], "the late call's end")
