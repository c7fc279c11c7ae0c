"""Mutated deliveries from Slack through the real listeners: each is answered in time and changes nothing.

They are correctly signed and come from somebody without rights, or from an approver and about something that doesn't
exist, so that none may change anything of the team's. Deliveries that Slack can't have signed are rejected.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import strategies as st

from bot.slack.http import MAX_BODY
from demo.people import ANA, BEN
from demo.slack_emulator.delivery import BotClient, Delivery
from tests.bot.world import EVE, GUS, PRIVATE, ROBO, World
from tests.fuzz.mutations import Json, mutated, odd_texts, raw_json

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
WITHOUT_RIGHTS = (GUS.id, EVE.id, ROBO.id, "U0NOBODY", "", "../U0")
ACTIONS = (
    "approve_plan", "reject_plan", "run_details", "cancel_run", "pause_run", "resume_run", "measure",
    "cancel_measurement", "share_estimate", "post_cleaned", "upload_again", "measure_dataset", "begin_upload",
    "all_commands", "estimate_after_ladder", "use_encoder", "use_candidate", "approve_promotion", "record_waiver",
    "prefer_first", "prefer_second", "prefer_same", "judge_some", "accept_answer", "reject_answer", "check_labels",
    "no_such_action",
)  # fmt: skip
VIEWS = (
    "upload", "estimate", "baseline_form", "knowledge_form", "reject_form", "waiver_form", "no_such_form",
)  # fmt: skip
VERBS = (
    "upload", "estimate", "start", "baseline", "curve", "status", "results", "runs", "cancel", "pause", "resume",
    "audit", "prices", "try", "knowledge", "datasets", "budget", "freeze", "unfreeze", "help", "", "statsu",
)  # fmt: skip
# Commands that change nothing about a dataset that doesn't exist, so an approver sends them too.
ASKING = tuple(verb for verb in VERBS if verb not in ("freeze", "unfreeze"))
RESPONSE_URL = "http://response.invalid/"  # replaced by an address of the emulator, which doesn't know it
# Messages, deliveries and SQLite's own counters are not the team's data.
LEFT_OUT = ("deliveries", "outbox", "cards", "inbox", "sqlite_sequence")


@dataclass(frozen=True)
class Sent:
    """One delivery as bytes. `signs`: with Slack's real secret."""

    what: str
    body: bytes
    content_type: str
    signs: bool = True


_numbers = itertools.count()


def _fresh(kind: str) -> str:
    """A trigger that is new, so that the delivery isn't dropped as a repetition."""
    return f"{kind}-{next(_numbers)}"


def _command(user: str, text: str) -> Json:
    return {
        "command": "/finetune",
        "text": text,
        "user_id": user,
        "channel_id": PRIVATE.id,
        "team_id": "T0",
        "channel_name": "tickets",
        "user_name": "x",
        "trigger_id": "t",
        "response_url": RESPONSE_URL,
    }


def _interaction(user: str, kind: str, **more: Any) -> Json:
    return {
        "type": kind,
        "team": {"id": "T0"},
        "user": {"id": user, "team_id": "T0"},
        "trigger_id": "t",
        "channel": {"id": PRIVATE.id},
        "response_url": RESPONSE_URL,
        **more,
    }


def _click(user: str, action: str, value: str) -> Json:
    pressed = {"type": "button", "action_id": action, "block_id": "b", "value": value}
    container = {"type": "message", "channel_id": PRIVATE.id, "message_ts": "1.1"}
    return _interaction(user, "block_actions", actions=[pressed], container=container, message={"ts": "1.1"})


def failing_click(response_url: str) -> Sent:
    """The value of its button is not a number."""
    return _as_payload({**_click(GUS.id, "measure", "x"), "response_url": response_url})


def _view(user: str, callback: str) -> Json:
    text = {"input": {"type": "plain_text_input", "value": "x"}}
    values = {
        **dict.fromkeys(
            ("name", "dataset", "current", "volume", "target", "reason", "candidates", "models"), text
        ),
        "file": {"value": {"type": "file_input", "files": [{"id": "F0NONE", "name": "a.csv"}]}},
    }
    state = {"values": values}
    blocks = [{"type": "input", "block_id": "name"}]
    view = {"id": "V1", "type": "modal", "callback_id": callback, "private_metadata": f"{PRIVATE.id} 1 1"}
    return _interaction(user, "view_submission", view={**view, "state": state, "blocks": blocks})


def _shortcut(user: str, callback: str) -> Json:
    kind = "message_action" if callback == "use_as_training_data" else "shortcut"
    message = {"ts": "1.1", "files": [{"id": "F0NONE", "name": "a.csv"}]}
    return _interaction(user, kind, callback_id=callback, message=message)


def _event(user: str, kind: str) -> Json:
    event = {
        "type": kind,
        "user": user,
        "channel": PRIVATE.id,
        "channel_id": "D1",
        "ts": "1.1",
        "file_id": "F1",
    }
    return {"type": "event_callback", "team_id": "T0", "event_id": "e", "event": event}


_users = st.sampled_from(WITHOUT_RIGHTS)
_words = st.lists(
    odd_texts | st.sampled_from(("tickets", "1", "because=", "target=acme/acme-small")), max_size=4
)


def _lines(verbs: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.tuples(st.sampled_from(verbs), _words).map(lambda line: " ".join((line[0], *line[1])))


_commands = st.builds(_command, _users, _lines(VERBS))
_numbers_of_none = st.sampled_from(("0", "-1", "99", "1.5", "x", "", "9" * 30, "0 first"))
_interactions = st.one_of(
    st.builds(_click, _users, st.sampled_from(ACTIONS), st.just("1") | odd_texts),
    st.builds(_view, _users, st.sampled_from(VIEWS)),
    st.builds(_shortcut, _users, st.sampled_from(("use_as_training_data", "upload_training_data", "none"))),
    # an approver about something that doesn't exist
    st.builds(_click, st.just(BEN.id), st.sampled_from(ACTIONS), _numbers_of_none),
)
_from_approvers = st.builds(
    _command,
    st.sampled_from((ANA.id, BEN.id)),
    st.sampled_from(ASKING).flatmap(lambda verb: odd_texts.map(lambda text: f"{verb} no-such-thing {text}")),
)
_events = st.builds(
    _event, _users, st.sampled_from(("app_mention", "file_shared", "app_home_opened", "none"))
)


def deliveries() -> st.SearchStrategy[Sent]:
    """None is larger than the limit: the bot would close the connection while the client still sends."""
    sent = st.one_of(
        _commands.flatmap(lambda form: st.just(form) | _without_rights(form)).map(_as_form),
        _from_approvers.map(_as_form),
        _interactions.map(_as_payload),
        _interactions.filter(_is_of_nobody).flatmap(_without_rights).map(_as_payload),
        _events.flatmap(_without_rights).map(_as_event),
        _events.map(_as_event),
        _raw(),
    )
    return sent.filter(lambda sent: len(sent.body) <= MAX_BODY)


def _raw() -> st.SearchStrategy[Sent]:
    bodies = raw_json(_event(GUS.id, "app_mention"))
    kinds = st.sampled_from((FORM, JSON, "text/plain", "multipart/form-data; boundary=x", ""))
    payloads = bodies.map(lambda body: urlencode({"payload": body}).encode())
    return st.builds(Sent, st.just("raw"), bodies | payloads, kinds, st.booleans())


def _without_rights(body: Json) -> st.SearchStrategy[Json]:
    return mutated(body).filter(_is_of_nobody)


def _is_of_nobody(body: Json) -> bool:
    return not any(person in json.dumps(body) for person in (ANA.id, BEN.id))


def _as_form(form: Mapping[str, Any]) -> Sent:
    fresh = {**form, "trigger_id": _fresh("t")} if form.get("trigger_id") == "t" else form
    texts = {
        _utf8(str(name)): _utf8(value if isinstance(value, str) else json.dumps(value))
        for name, value in fresh.items()
    }
    return Sent("/finetune", urlencode(texts).encode(), FORM)


def _as_payload(payload: Json) -> Sent:
    fresh = {**payload, "trigger_id": _fresh("t")} if payload.get("trigger_id") == "t" else payload
    return Sent(str(payload.get("type")), urlencode({"payload": json.dumps(fresh)}).encode(), FORM)


def _as_event(event: Json) -> Sent:
    fresh = {**event, "event_id": _fresh("e")} if event.get("event_id") == "e" else event
    return Sent("event", json.dumps(fresh).encode(), JSON)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def deliver(world: World, sent: Sent) -> Delivery:
    access = world.slack.access
    secret = access.signing_secret if sent.signs else "another secret"
    response_url = quote(access.api_url.removesuffix("api/") + "response/none", safe="").encode()
    body = sent.body.replace(quote(RESPONSE_URL, safe="").encode(), response_url)
    return BotClient(world.service.address, secret, 10).deliver(sent.what, body, sent.content_type)


def complaint_about(world: World, sent: Sent) -> str | None:
    before = digest_of(world)
    wrong = _complaint_about_answer(sent, deliver(world, sent))
    return wrong or (None if digest_of(world) == before else "something was changed")


def digest_of(world: World) -> str:
    """A digest of every row of the team's data."""
    database, digest = world.store.database, hashlib.sha256()
    tables = database.rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    for name in [table["name"] for table in tables]:
        if name not in LEFT_OUT:
            rows = database.rows(f'SELECT * FROM "{name}"')  # noqa: S608  a table's own name
            digest.update(repr((name, rows)).encode())
    return digest.hexdigest()


def _complaint_about_answer(sent: Sent, answer: Delivery) -> str | None:
    if answer.status is None:
        return "no answer"
    if answer.status >= 500:
        return f"HTTP {answer.status}"
    if not sent.signs and answer.status == 200:
        return "a request with a wrong signature was accepted"
    if b"Traceback" in answer.answer or b'File "' in answer.answer:
        return "a traceback"
    return None
