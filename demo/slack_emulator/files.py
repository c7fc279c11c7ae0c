"""Files in the emulator: the bot's three-step upload, a person's upload, files.info, and downloads."""

from __future__ import annotations

import mimetypes
import time
from urllib.parse import quote

from demo.people import BOT
from demo.slack_emulator.state import TEAM, Json, SlackError, State, StoredFile

LOGIN_PAGE = (
    b"<!DOCTYPE html><html><head><title>Slack</title></head><body>Sign in to the workspace</body></html>"
)


def get_upload_url(state: State, args: Json) -> Json:
    name = args.get("filename")
    length = str(args.get("length", ""))
    if not name or not length.isdigit() or int(length) == 0:
        raise SlackError("invalid_arguments", ["filename and a length above 0 are needed"])
    file = _store_file(state, str(name), int(length), BOT.id)
    token = state.new_id("up")
    state.uploads[token] = file.body["id"]
    return {"upload_url": f"{state.base}/upload/v1/{token}", "file_id": file.body["id"]}


def take_bytes(state: State, token: str, content: bytes) -> None:
    """Takes the bytes, the second step of an upload. Their number must be the announced one."""
    file = state.files[state.uploads.pop(token)]
    if len(content) != file.length:
        raise SlackError(f"length is {len(content)}, {file.length} was announced")
    file.content = content


def complete_upload(state: State, args: Json) -> Json:
    files = [_uploaded(state, item) for item in args.get("files") or []]
    if not files:
        raise SlackError("invalid_arguments", ["files: must be a list of id and title"])
    if args.get("channel_id"):
        _share(state, files, args)
    for file in files:
        file.shown = True
    return {"files": [file.body for file in files]}


def info(state: State, args: Json) -> Json:
    file = state.files.get(str(args.get("file")))
    if file is None or not file.shown:
        raise SlackError("file_not_found")
    return {"file": file.body, "comments": [], "response_metadata": {"next_cursor": ""}}


def person_upload(state: State, user: str, name: str, content: bytes) -> StoredFile:
    file = _store_file(state, name, len(content), user)
    file.content = content
    file.shown = True
    return file


def record_share(state: State, file: StoredFile, channel: str, ts: str) -> None:
    """Records in the file's JSON where it was shared, which files.info returns."""
    place = "channels"
    visibility = "public"
    if state.channels[channel].private:
        place = "groups"
        visibility = "private"
    if channel.startswith("D"):
        place = "ims"
    file.body[place] = [*file.body[place], channel]
    shares = file.body["shares"].setdefault(visibility, {})
    shares.setdefault(channel, []).append({"ts": ts})


def file_for_token(state: State, team_and_id: str, token: str | None) -> StoredFile | None:
    """Returns the file if this token may read it, else None, for which Slack shows its login page with a 200."""
    file = state.files.get(team_and_id.removeprefix(f"{TEAM}-"))
    if file is None or not file.shown:
        raise SlackError("file_not_found")
    is_allowed = token == state.bot_token and "files:read" in state.scopes
    if not is_allowed:
        return None
    return file


def _store_file(state: State, name: str, length: int, owner: str) -> StoredFile:
    file_id = state.new_id("F")
    place = f"{state.base}/files-pri/{TEAM}-{file_id}"
    body = {
        "id": file_id,
        "created": int(time.time()),
        "timestamp": int(time.time()),
        "name": name,
        "title": name,
        "mimetype": mimetypes.guess_type(name)[0] or "text/plain",
        "filetype": name.rpartition(".")[2].lower() or "text",
        "size": length,
        "mode": "hosted",
        "user": owner,
        "user_team": TEAM,
        "is_external": False,
        "file_access": "visible",
        "url_private": f"{place}/{quote(name)}",
        "url_private_download": f"{place}/download/{quote(name)}",
        "permalink": f"{state.base}/files/{owner}/{file_id}/{name}",
        "channels": [],
        "groups": [],
        "ims": [],
        "shares": {},
    }
    state.files[file_id] = StoredFile(body, owner, length)
    return state.files[file_id]


def _uploaded(state: State, item: Json) -> StoredFile:
    file = state.files.get(str(item.get("id")))
    if file is None or file.owner != BOT.id or file.content is None:
        raise SlackError("file_not_found")
    file.body["title"] = item.get("title") or file.body["name"]
    return file


def _share(state: State, files: list[StoredFile], args: Json) -> None:
    channel = state.channel(args["channel_id"])
    if BOT.id not in channel.members:
        raise SlackError("not_in_channel")
    message = {
        "text": args.get("initial_comment"),
        "blocks": args.get("blocks"),
        "thread_ts": args.get("thread_ts"),
    }
    stored = state.post_as_bot(channel.id, {**message, "files": [file.body for file in files]})
    for file in files:
        record_share(state, file, channel.id, stored.body["ts"])
