"""slack_limits.py accepts good messages and finds each limit that is broken."""

from __future__ import annotations

from typing import Any

from tests.cards.slack_limits import limit_violations

Json = dict[str, Any]


def plain(text: str) -> Json:
    return {"type": "plain_text", "text": text}


def md(text: str) -> Json:
    return {"type": "mrkdwn", "text": text}


def raw(text: str) -> Json:
    return {"type": "raw_text", "text": text}


def section(text: str = "a", **more: Any) -> Json:
    return {"type": "section", "text": md(text), **more}


def button(number: int = 0, **more: Any) -> Json:
    return {"type": "button", "text": plain("Go"), "action_id": f"go {number}", "value": "1", **more}


def confirm(**more: Any) -> Json:
    return {"title": plain("t"), "text": plain("t"), "confirm": plain("y"), "deny": plain("n"), **more}


def actions(*elements: Json) -> Json:
    return {"type": "actions", "elements": list(elements)}


def chart(points: int = 3, **more: Any) -> Json:
    data = [{"label": str(n), "value": n} for n in range(points)]
    axis = {"categories": [point["label"] for point in data]}
    line = {"type": "line", "series": [{"name": "training", "data": data}], "axis_config": axis, **more}
    return {"type": "data_visualization", "title": "Loss", "chart": line}


def plan(*tasks: Json, **more: Any) -> Json:
    return {"type": "plan", "title": "Run 7", "tasks": list(tasks), **more}


def task(name: str = "1", **more: Any) -> Json:
    return {"task_id": name, "title": "Train", "status": "complete", **more}


def table(count: int, columns: int = 2, **more: Any) -> Json:
    return {"type": "data_table", "caption": "c", "rows": [[raw("x")] * columns] * count, **more}


def select(*options: Json, **more: Any) -> Json:
    element = {"type": "static_select", "action_id": "a", "options": list(options), **more}
    return {"type": "input", "block_id": "s", "label": plain("L"), "element": element}


def option(text: str = "t", value: str = "v") -> Json:
    return {"text": plain(text), "value": value}


def message(*blocks: Json, **more: Any) -> Json:
    return {"text": "a", "blocks": list(blocks), **more}


def modal(*blocks: Json, **more: Any) -> Json:
    return {"type": "modal", "title": plain("t"), "submit": plain("s"), "blocks": list(blocks), **more}


FILE = {"type": "input", "label": plain("L"), "element": {"type": "file_input", "action_id": "f"}}
GOOD = [
    message(section(), {"type": "divider"}, {"type": "header", "text": plain("h")}),
    message(section("a" * 3000), actions(button(1, confirm=confirm()), button(2, style="danger"))),
    message(table(101, 20), chart(20), plan(task("1"), task("2"))),
    message(newest=[plan(task())]),
    modal(FILE, select(option())),
    {"type": "home", "blocks": [section()] * 100},
]


def test_messages_and_views_within_the_limits_are_accepted() -> None:
    assert [limit_violations(message) for message in GOOD] == [[]] * len(GOOD)


BAD: list[tuple[str, Json]] = [
    ("51 blocks", message(*[section()] * 51)),
    ("101 blocks", {"type": "home", "blocks": [section()] * 101}),
    ("101 blocks", modal(*[section()] * 101)),
    ("characters to read", message(*[section("a" * 2_500)] * 5)),
    ("characters to read", message(newest=[section("a" * 2_500)] * 5)),
    ("text: 0 characters", {"text": "", "blocks": [section()]}),
    ("text: no text", {"blocks": [section()]}),
    ("unknown key 'colour'", message(section(), colour="red")),
    ("unknown block type 'hologram'", message({"type": "hologram"})),
    ("unknown key 'txt'", message(section(txt="a"))),
    ("unknown key 'bold'", message({"type": "section", "text": {**md("a"), "bold": True}})),
    ("unknown key 'emoji'", message({"type": "section", "text": {**md("a"), "emoji": True}})),
    ("3,001 characters", message(section("a" * 3001))),
    ("0 characters", message(section(""))),
    ("3 characters", message(section("   "))),
    ("neither text nor fields", message({"type": "section"})),
    ("fields: 11", message({"type": "section", "fields": [md("a")] * 11})),
    ("2,001 characters", message({"type": "section", "fields": [md("a" * 2001)]})),
    ("151 characters", message({"type": "header", "text": plain("a" * 151)})),
    ("must be plain_text", message({"type": "header", "text": md("a")})),
    ("'text' is missing", message({"type": "header"})),
    ("elements: 11", message({"type": "context", "elements": [md("a")] * 11})),
    ("elements: 0", message({"type": "context", "elements": []})),
    ("2,001 characters", message({"type": "context", "elements": [md("a" * 2001)]})),
    ("elements: 26", message(actions(*[button(n) for n in range(26)]))),
    ("elements: 0", message(actions())),
    ("action_id 'go 1' twice", message(actions(button(1), button(1)))),
    ("block_id 'b' twice", message(section(block_id="b"), section(block_id="b"))),
    ("256 characters", message(section(block_id="b" * 256))),
    ("256 characters", message(actions(button(action_id="b" * 256)))),
    ("76 characters", message(actions(button(text=plain("a" * 76))))),
    ("2,001 characters", message(actions(button(value="a" * 2001)))),
    ("value: 0 characters", message(actions(button(value="")))),
    ("style 'green'", message(actions(button(style="green")))),
    ("unknown key 'colour'", message(actions(button(colour="green")))),
    ("confirm title: 101", message(actions(button(confirm=confirm(title=plain("a" * 101)))))),
    ("confirm text: 301", message(actions(button(confirm=confirm(text=plain("a" * 301)))))),
    ("confirm confirm: 31", message(actions(button(confirm=confirm(confirm=plain("a" * 31)))))),
    ("confirm deny: 31", message(actions(button(confirm=confirm(deny=plain("a" * 31)))))),
    ("options: 101", modal(select(*[option(value=str(n)) for n in range(101)]))),
    ("options: 0", modal(select())),
    ("option text: 76", modal(select(option("a" * 76)))),
    ("option value: 151", modal(select(option(value="a" * 151)))),
    ("option value 'v' twice", modal(select(option(), option()))),
    ("none of the options", modal(select(option(), initial_option=option("other")))),
    ("title: 25", modal(section(), title=plain("a" * 25))),
    ("submit: 25", modal(section(), submit=plain("a" * 25))),
    ("close: 25", modal(section(), close=plain("a" * 25))),
    ("private_metadata: 3,001", modal(section(), private_metadata="a" * 3001)),
    ("callback_id: 256", modal(section(), callback_id="a" * 256)),
    ("unknown key 'height'", modal(section(), height=3)),
    ("bytes", modal(*[section("ä" * 3000)] * 20)),
    ("needs a submit", {"type": "modal", "title": plain("t"), "blocks": [FILE]}),
    ("file_input in modals only", message(FILE)),
    ("inside an input only", modal(section(accessory=FILE["element"]))),
    ("a button is no input", modal({"type": "input", "label": plain("L"), "element": button()})),
    ("in messages only", modal(plan(task()))),
    ("rows: 102", message(table(102))),
    ("rows: 1,", message(table(1))),
    ("columns: 21", message(table(2, 21))),
    ("different lengths", message(table(2, rows=[[raw("a")], [raw("a"), raw("b")]]))),
    ("cell: 0 characters", message(table(2, rows=[[raw("")], [raw("a")]]))),
    ("a cell of type 'plain_text'", message(table(2, rows=[[plain("a")], [raw("a")]]))),
    ("caption: 0 characters", message(table(2, caption=""))),
    ("rich_text in the heading", message(table(2, rows=[[{"type": "rich_text"}], [raw("a")]]))),
    ("title: 51", message({**chart(), "title": "a" * 51})),
    ("points: 21", message(chart(21))),
    ("a chart of type 'radar'", message(chart(type="radar"))),
    ("series: 7", message(chart(series=[*chart()["chart"]["series"]] * 7))),
    ("not the axis's categories", message(chart(axis_config={"categories": ["9"]}))),
    ("more than 2 charts", message(chart(), chart(), chart())),
    ("tasks: 51", message(plan(*[task(str(n)) for n in range(51)]))),
    ("task_id '1' twice", message(plan(task(), task()))),
    ("status 'done'", message(plan(task(status="done")))),
]


def test_each_broken_limit_is_found() -> None:
    for expected, body in BAD:
        violations = limit_violations(body)
        assert any(expected in violation for violation in violations), (expected, violations)


def test_slack_s_own_models_are_asked_too() -> None:
    violations = limit_violations(message({"type": "header", "text": plain("a" * 151)}))
    assert any("slack_sdk says" in violation for violation in violations), violations


def test_a_label_of_a_chart_has_at_most_twenty_characters() -> None:
    long = chart(1)
    long["chart"]["series"][0]["data"][0]["label"] = "a" * 21
    assert any("label: 21" in violation for violation in limit_violations(message(long)))
