"""Turns a person's input in a modal into Slack's `state.values`, or into the errors that Slack would show. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo.workspace import Answers, Block, WorkspaceError

Answer = str | Sequence[str] | None

_ONE_OF = ("static_select", "radio_buttons")
_SOME_OF = ("multi_static_select", "checkboxes")
_PICKED = {
    "users_select": "selected_user",
    "channels_select": "selected_channel",
    "conversations_select": "selected_conversation",
    "datepicker": "selected_date",
}
_LARGEST = 10 * 1024 * 1024
_MISSING = "Please complete this required field."


@dataclass(frozen=True)
class FilledForm:
    """`values` is Slack's `state.values`; `errors` by block_id are those that Slack's client shows without asking the
    app."""

    values: Mapping[str, Any]
    errors: Mapping[str, str]


def fill_in(blocks: Sequence[Block], answers: Answers, file_of: Callable[[str], Block]) -> FilledForm:
    """Fills in a modal. Fields without an answer keep their initial value. `file_of` returns a file's JSON by its
    id."""
    inputs = [block for block in blocks if block["type"] == "input"]
    fields = [block["block_id"] for block in inputs]
    strangers = [name for name in answers if name not in fields]
    if strangers:
        raise WorkspaceError(f"the modal has no field {', '.join(strangers)}: it has {', '.join(fields)}")
    values = {}
    errors = {}
    for block in inputs:
        state = _state(block["element"], answers.get(block["block_id"]), file_of)
        values[block["block_id"]] = {block["element"]["action_id"]: state}
        complaint = _complaint(block, state)
        if complaint:
            errors[block["block_id"]] = complaint
    return FilledForm(values, errors)


def _state(element: Block, answer: Answer, file_of: Callable[[str], Block]) -> dict[str, Any]:
    kind = element["type"]
    if kind in _ONE_OF:
        return {"type": kind, "selected_option": _option(element, answer)}
    if kind in _SOME_OF:
        return {"type": kind, "selected_options": _options(element, answer)}
    if kind == "file_input":
        return {"type": kind, "files": [file_of(file) for file in _several(answer)]}
    if kind in _PICKED:
        selected = _PICKED[kind]
        if answer is None:
            answer = element.get(selected.replace("selected", "initial"))
        return {"type": kind, selected: answer}
    if answer is None:
        answer = element.get("initial_value")
    # Slack sends null for a text that somebody has emptied.
    return {"type": kind, "value": answer or None}


def _option(element: Block, answer: Answer) -> Block | None:
    if answer is None:
        chosen: Block | None = element.get("initial_option")
        return chosen
    for option in element["options"]:
        if option["value"] == answer:
            return {"text": option["text"], "value": option["value"]}
    offered = ", ".join(option["value"] for option in element["options"])
    raise WorkspaceError(f"'{element['action_id']}' offers no '{answer}': it offers {offered}")


def _options(element: Block, answer: Answer) -> list[Block]:
    if answer is None:
        return list(element.get("initial_options", ()))
    chosen = [_option(element, name) for name in _several(answer)]
    return [option for option in chosen if option is not None]


def _several(answer: Answer) -> Sequence[str]:
    if answer is None:
        return ()
    if isinstance(answer, str):
        return (answer,)
    return answer


def _complaint(block: Block, state: Mapping[str, Any]) -> str | None:
    element = block["element"]
    argument = next(value for key, value in state.items() if key != "type")
    if not argument and block.get("optional"):
        return None
    if not argument:
        return _MISSING
    if "max_length" in element and len(argument) > element["max_length"]:
        return f"Please use at most {element['max_length']} characters."
    if element["type"] == "file_input":
        return _about_files(element, argument)
    return None


def _about_files(element: Block, files: Sequence[Block]) -> str | None:
    most = element.get("max_files", 10)
    if len(files) > most:
        return f"Please add at most {most} files."
    kinds = element.get("filetypes")
    for file in files:
        if file["size"] > _LARGEST:
            return "Please choose a file of at most 10 MB."
        _, _, kind = file["name"].rpartition(".")
        if kinds and kind.lower() not in kinds:
            return f"Please choose a file of the type {', '.join(kinds)}."
    return None
