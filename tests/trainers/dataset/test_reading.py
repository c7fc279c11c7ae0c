"""Reading a file: each fault is reported with its line, and a file without rows is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trainers.dataset import Columns, Limits, Reading, read
from trainers.dataset.rows import is_blank
from trainers.types import Message

GOOD = '{"messages": [{"role": "user", "content": "hi %d"}, {"role": "assistant", "content": "greeting"}]}'
ANY_COLUMNS, DEFAULT = Columns(), Limits()
PICTURE = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(40)


def read_bytes(
    folder: Path, content: bytes, columns: Columns = ANY_COLUMNS, limits: Limits = DEFAULT
) -> Reading:
    path = folder / "upload"
    path.write_bytes(content)
    return read(path, "tickets.jsonl", columns=columns, limits=limits)


def codes(reading: Reading) -> list[tuple[int | None, str]]:
    return [(finding.line, finding.code) for finding in reading.findings]


def chat(*messages: dict[str, object], **more: object) -> str:
    return json.dumps({"messages": messages, **more})


def make_call(name: str, arguments: str = "{}") -> dict[str, object]:
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [call]}


def make_result(call: str) -> dict[str, object]:
    return {"role": "tool", "tool_call_id": call, "content": "shipped"}


USER: dict[str, object] = {"role": "user", "content": "my printer is dead"}
REPLY: dict[str, object] = {"role": "assistant", "content": "hardware_fault"}

BAD_LINES = [
    ('{"messages": [', "not_json"),
    ("[1, 2]", "not_a_row"),
    ('{"text": "a", "label": "b"}', "not_a_row"),
    ('{"messages": [], "x": NaN}', "not_a_number"),
    ('{"messages": [], "x": 1e400}', "not_a_number"),
    ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', "lone_surrogate"),
    (chat(USER, REPLY).replace('"role": "user"', '"role": "user", "role": "user"'), "duplicate_key"),
    (chat(USER, REPLY)[:-1] + ', "messages": []}', "duplicate_key"),
    (chat(USER, REPLY, tools=[]).replace('"tools": []', '"tools": [{"a": 1, "a" : 1}]'), "duplicate_key"),
    ("[" * 40 + "]" * 40, "nested_too_deep"),
    ("[" * 5000 + "]" * 5000, "nested_too_deep"),
    ('{"messages": {}}', "bad_messages"),
    ('{"messages": []}', "bad_messages"),
    ('{"messages": ["hi"]}', "bad_messages"),
    (chat(*[USER] * 300, REPLY), "bad_messages"),
    (chat({"role": "bot", "content": "hi"}, REPLY), "unknown_role"),
    (chat({"role": ["user"], "content": "hi"}, REPLY), "unknown_role"),
    (chat(USER), "no_answer"),
    (chat({"role": "system", "content": "be kind"}, REPLY), "no_question"),
    (chat({"role": "user", "content": " \\n"}, REPLY).replace("\\\\n", "\\n"), "empty_content"),
    (chat(USER, {"role": "assistant", "content": ""}), "empty_content"),
    (chat(USER, {"role": "assistant", "content": None}), "empty_content"),
    (chat(USER, {"role": "assistant", "content": " \u200b\u2060\ufeff "}), "empty_content"),
    (chat({"role": "user", "content": "\u200d\u00ad"}, REPLY), "empty_content"),
    ('{"prompt": "a", "completion": "\\u200b"}', "empty_content"),
    (chat({"role": "user", "content": 5}, REPLY), "content_not_text"),
    (chat({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, REPLY), "content_not_text"),
    (chat(USER, {**REPLY, "weight": 2}), "bad_weight"),
    (chat(USER, {**REPLY, "weight": True}), "bad_weight"),
    (chat({**USER, "weight": 1}, REPLY), "bad_weight"),
    (chat(USER, {**REPLY, "weight": 0}), "nothing_to_learn"),
    (chat(USER, REPLY, tools="find"), "bad_tools"),
    (chat(USER, REPLY, tools=[{"type": "function"}]), "bad_tools"),
    (chat(USER, REPLY, functions=[{"parameters": {}}]), "bad_tools"),
    (chat(USER, make_call("find", "hello")), "bad_tool_call"),
    (chat(USER, {"role": "assistant", "tool_calls": "find"}), "bad_tool_call"),
    (chat(USER, {"role": "assistant", "function_call": {"name": "find"}}), "bad_tool_call"),
    (chat({**USER, "tool_calls": [{}]}, REPLY), "bad_tool_call"),
    (chat(USER, make_call("find"), REPLY), "tool_call_unmatched"),
    (chat(USER, make_call("find"), make_result("c2"), REPLY), "tool_call_unmatched"),
    (chat(USER, make_call("find"), make_result("c1"), make_result("c1"), REPLY), "tool_call_unmatched"),
    (chat(USER, {"role": "tool", "content": "shipped"}, REPLY), "tool_call_unmatched"),
    ('{"prompt": "a", "completion": "b"}', "mixed_formats"),
    ('{"prompt": "a", "completion": 5}', "content_not_text"),
    ('{"prompt": "", "completion": "b"}', "empty_content"),
    (
        '{"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}',
        "bad_preference_pair",
    ),
    ('{"prompt": "a", "chosen": "b", "rejected": "c"}', "mixed_formats"),
]


@pytest.mark.parametrize(("line", "code"), BAD_LINES, ids=lambda value: str(value)[:40])
def test_a_fault_is_found_on_its_own_line_and_only_there(tmp_path: Path, line: str, code: str) -> None:
    lines = [GOOD % i for i in range(6)] + [line] + [GOOD % i for i in range(6, 9)]
    reading = read_bytes(tmp_path, "\n".join(lines).encode())
    assert codes(reading) == [(7, code)]
    assert reading.is_refused
    assert len(reading.examples) == 9
    assert [example.line for example in reading.examples] == [1, 2, 3, 4, 5, 6, 8, 9, 10]
    assert reading.findings[0].message.startswith("Line 7 ")
    assert reading.findings[0].cure


REFUSED = {
    "nothing": (b"", "empty_file", "is empty"),
    "a vertical tab": (b"\x0b", "empty_file", "is empty"),
    "a byte-order mark": (b"\xef\xbb\xbf", "empty_file", "is empty"),
    "a picture": (PICTURE, "not_text", "PNG picture"),
    "a workbook": (b"PK\x03\x04" + bytes(100), "not_text", "Excel"),
    "an old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "not_text", "old Excel"),
    "a pdf": (b"%PDF-1.7\n", "not_text", "PDF"),
    "a gzip": (b"\x1f\x8b\x08\x00", "not_text", "gzip"),
    "a parquet": (b"PAR1\x15\x04", "not_text", "Parquet"),
    "zeros": (b"abc\x00def\x01\x02" * 10, "not_text", "zero bytes"),
    "a log-in page": (b"\n<!DOCTYPE html><html></html>", "not_text", "web page"),
    "half of utf-16": (GOOD.encode("utf-16")[:-1], "not_utf8", "UTF-16"),
    "an array of numbers": (b"[\n 1, 2\n]", "json_array", "is a JSON array"),
    "an array cut off": (b'[{"messages": []}, {"mess', "json_array", "is a JSON array"),
    "an array of nothing": (b"[\n]", "json_array", "is a JSON array"),
    "spread json cut off": (b'{\n "messages": []\n', "json_over_lines", "span several lines"),
    "prose": (b"Dear team\nplease train this\n", "unknown_format", "neither JSONL nor a CSV"),
    "one column": (b"text\nmy printer is dead\nwhere is it\n", "no_labels", "No column has labels"),
    "texts and numbers": (
        b"id,text\n1,my printer is dead\n2,where is my order now\n",
        "no_labels",
        "No column has labels",
    ),
    "texts and dates": (
        b"text,created,id\nmy printer is dead,2025-01-01,1\nwhere is it,2025-01-01,2\n",
        "no_labels",
        "No column has labels",
    ),
}


@pytest.mark.parametrize(("content", "code", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_without_rows_is_refused_with_the_reason(
    tmp_path: Path, content: bytes, code: str, reason: str
) -> None:
    reading = read_bytes(tmp_path, content)
    assert reading.examples == ()
    (finding,) = reading.findings
    assert finding.code == code and reason in finding.message
    assert finding.message.endswith(".") and finding.cure.endswith(".")


def test_a_file_over_the_cap_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(260_000_000)
    finding = read(path, "big.jsonl").findings[0]
    assert finding.code == "file_too_big"
    assert finding.message == "'big.jsonl' has 260.0 MB; the limit is 200.0 MB."


def test_lines_over_the_cap_are_skipped_and_later_lines_keep_their_numbers(tmp_path: Path) -> None:
    too_long = GOOD.replace("%d", "x" * 5000)
    lines = [GOOD % 1, too_long, "oops", GOOD % 2, too_long]  # the last one has no line end
    reading = read_bytes(tmp_path, "\n".join(lines).encode(), limits=Limits(max_line_bytes=1000))
    assert sorted(codes(reading)) == [(2, "line_too_long"), (3, "not_json"), (5, "line_too_long")]
    assert [example.line for example in reading.examples] == [1, 4]


def test_reading_stops_at_the_cap_of_rows(tmp_path: Path) -> None:
    reading = read_bytes(tmp_path, "\n".join(GOOD % i for i in range(9)).encode(), limits=Limits(max_rows=5))
    assert codes(reading) == [(None, "too_many_rows")]
    assert len(reading.examples) == 5


def test_many_lines_with_one_fault_are_listed_up_to_the_cap_and_then_counted(tmp_path: Path) -> None:
    content = "\n".join([GOOD % 0, *["{oops"] * 50]).encode()
    findings = read_bytes(tmp_path, content, limits=Limits(listed=20)).findings
    assert [finding.line for finding in findings] == [*range(2, 22), None]
    assert findings[-1].message == "30 more lines have the same problem."
    assert sum(finding.count for finding in findings) == 50


def test_bytes_that_are_not_utf8_are_reported_with_their_likely_encoding(tmp_path: Path) -> None:
    in_utf8 = GOOD.replace("hi %d", "thé").encode()  # so that the file as a whole is not in Latin-1
    in_latin_1 = GOOD.replace("hi %d", "café").encode("latin-1")
    finding = read_bytes(tmp_path, in_utf8 + b"\n" + in_latin_1).findings[0]
    assert (finding.line, finding.code) == (2, "not_utf8")
    assert "Windows-1252 or Latin-1" in finding.message


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_no_faults(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + (GOOD % 1 + "\r\n\r\n" + GOOD % 2 + "\r\n").encode()
    reading = read_bytes(tmp_path, content)
    assert codes(reading) == [(None, "blank_lines")]
    assert [example.line for example in reading.examples] == [1, 3]


def test_a_key_repeated_inside_a_text_is_no_fault(tmp_path: Path) -> None:
    line = chat({"role": "user", "content": 'what does {"role": 1, "role": 2} mean'}, REPLY)
    assert codes(read_bytes(tmp_path, line.encode())) == []


def test_a_row_with_tools_keeps_its_json_without_unknown_keys(tmp_path: Path) -> None:
    call = make_call("find")
    line = chat(
        USER,
        call,
        make_result("c1"),
        {"role": "assistant", "content": "It is on its way.", "weight": 1},
        tools=[{"type": "function", "function": {"name": "find"}}],
        note="internal",
    )

    (example,) = read_bytes(tmp_path, line.encode()).examples

    assert example.row is not None
    row = json.loads(example.row)
    assert row.keys() == {"messages", "tools"}
    assert row["messages"][1] == call
    assert json.loads(example.messages[1].content) == call["tool_calls"]
    assert example.messages[3].weight == 1


def test_text_parts_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": text} for text in "ab"]
    line = chat({"role": "user", "content": parts}, REPLY)
    assert read_bytes(tmp_path, line.encode()).examples[0].messages[0] == Message("user", "a\nb")


def test_prompt_and_completion_become_a_conversation(tmp_path: Path) -> None:
    reading = read_bytes(tmp_path, b'{"prompt": "my printer is dead ->", "completion": " hardware_fault"}')
    assert reading.format == "completion"
    assert reading.examples[0].messages == (
        Message("user", "my printer is dead ->"),
        Message("assistant", "hardware_fault"),
    )


TABLES = {
    "comma": 'text,label\n"dead, quite dead",fault\nwhere is it,delivery\n',
    "semicolon": "text;label\ndead, quite dead;fault\nwhere is it;delivery\n",
    "tab": "text\tlabel\ndead, quite dead\tfault\nwhere is it\tdelivery\n",
    "other names": 'Customer Message,Ticket Category\n"dead, quite dead",fault\nwhere is it,delivery\n',
    "label first": 'label,text\nfault,"dead, quite dead"\ndelivery,where is it\n',
    "more columns": 'id,text,label,at\n1,"dead, quite dead",fault,09:30\n2,where is it,delivery,10:30\n',
    "windows": 'text,label\r\n"dead, quite dead",fault\r\nwhere is it,delivery\r\n',
    "marked": '\ufefftext,label\n"dead, quite dead",fault\nwhere is it,delivery\n',
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_a_table_is_read_with_any_separator_and_column_names(tmp_path: Path, table: str) -> None:
    reading = read_bytes(tmp_path, table.encode())
    assert codes(reading) == []
    assert reading.format == "csv"
    assert [(e.line, e.prompt[0].content, e.answer) for e in reading.examples] == [
        (2, "dead, quite dead", "fault"),
        (3, "where is it", "delivery"),
    ]


def test_columns_without_known_names_are_found_by_their_values(tmp_path: Path) -> None:
    rows = [f"{i},the printer number {i} is dead,{'fault' if i % 2 else 'other'}" for i in range(20)]
    reading = read_bytes(tmp_path, "\n".join(["nr,what they wrote,bucket", *rows]).encode())
    assert reading.columns == Columns("what they wrote", "bucket")
    assert len(reading.examples) == 20


def test_a_table_without_a_header_is_read_and_reported(tmp_path: Path) -> None:
    rows = [f"the printer number {i} is dead,{'fault' if i % 2 else 'other'}" for i in range(20)]
    reading = read_bytes(tmp_path, "\n".join(rows).encode())
    assert codes(reading) == [(None, "no_header")]
    assert reading.columns == Columns("column 1", "column 2")
    assert [e.line for e in reading.examples] == list(range(1, 21))


TWO_LABELS = b"utterance,intent,category\nwhere is it,track,DELIVERY\nstop it,cancel,ORDER\n"


def test_of_two_possible_label_columns_a_person_chooses_one(tmp_path: Path) -> None:
    unclear = read_bytes(tmp_path, TWO_LABELS)
    chosen = read_bytes(tmp_path, TWO_LABELS, Columns(label="category"))
    assert codes(unclear) == [(None, "columns_unclear")]
    assert unclear.findings[0].message == "The columns 'intent' and 'category' could both be the label."
    assert unclear.choices.label == ("intent", "category")
    assert unclear.examples == ()
    assert [example.answer for example in chosen.examples] == ["DELIVERY", "ORDER"]


def test_two_columns_with_the_same_name_are_refused(tmp_path: Path) -> None:
    reading = read_bytes(tmp_path, b"text,text,label\n" + b"hello there,good day,a\n" * 20)
    assert codes(reading) == [(None, "column_twice")]


def test_a_table_of_preference_pairs_is_refused_as_such(tmp_path: Path) -> None:
    rows = ["prompt;chosen;rejected", *(f"ask {i};good {i};bad {i}" for i in range(20))]
    reading = read_bytes(tmp_path, "\n".join(rows).encode())
    assert codes(reading) == [(None, "pairs_in_a_table")]


def test_an_open_quote_is_reported_with_the_lines_that_it_spans(tmp_path: Path) -> None:
    reading = read_bytes(tmp_path, b'text,label\nhello,a\n"open here,b\n' + b"good day,c\n" * 9)
    (finding,) = reading.findings
    assert (finding.line, finding.code) == (3, "broken_quotes")
    assert "lines 3 to 12" in finding.message


def test_a_cell_beyond_the_readers_limit_is_too_long(tmp_path: Path) -> None:
    reading = read_bytes(tmp_path, b"text,label\nhello,a\n" + b"x" * 200_000 + b",b\nhello,c\n")
    assert codes(reading) == [(3, "cell_too_long")]
    assert [example.line for example in reading.examples] == [2, 4]


def test_a_missing_column_is_refused_with_the_available_ones(tmp_path: Path) -> None:
    (finding,) = read_bytes(tmp_path, TWO_LABELS, Columns(label="lable")).findings
    assert finding.code == "column_missing"
    assert finding.message == "There is no column 'lable'; available: 'utterance', 'intent' and 'category'."


def test_faults_of_a_table_have_the_line_at_which_their_record_begins(tmp_path: Path) -> None:
    table = (
        'text,label\n"two\nlines",fault\n,fault\nwhere is it,\n\n'  # record 2 is lines 2 and 3
        'one,two,three\nalone\n"half" open,fault\nthe end,fault\n"never closed,fault\n'
    )

    reading = read_bytes(tmp_path, table.encode())

    assert sorted(codes(reading), key=lambda c: c[0] or 0) == [
        (4, "empty_text"),
        (5, "empty_label"),
        (7, "wrong_width"),
        (8, "wrong_width"),
        (9, "broken_quotes"),
        (11, "broken_quotes"),
    ]
    assert [example.line for example in reading.examples] == [2, 10]


@pytest.mark.parametrize("end", ["\u2028", "\x85", "\v", "\f"])
def test_unicode_line_separators_do_not_end_a_row(tmp_path: Path, end: str) -> None:
    reading = read_bytes(tmp_path, f"text,label\nhi{end}there,a\nbye{end}now,b\n".encode())
    assert [(e.prompt[0].content, e.answer) for e in reading.examples] == [
        (f"hi{end}there", "a"),
        (f"bye{end}now", "b"),
    ]


def test_a_repeated_header_is_not_a_row(tmp_path: Path) -> None:
    reading = read_bytes(tmp_path, b"id,text,label\n1,hi,a\nid,text,label\n2,bye,b\n")
    assert codes(reading) == [(3, "header_again")]
    assert [example.answer for example in reading.examples] == ["a", "b"]


def test_a_name_with_control_and_bidi_characters_is_shown_without_them(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(b"")
    assert read(path, "tic\u202ekets\x07\n.csv").findings[0].message == "'tic kets .csv' is empty."


def test_no_finding_shows_the_text_of_a_row(tmp_path: Path) -> None:
    secret = "canary7361"
    lines = [line.replace("hi", secret).replace("my printer", secret) for line, _ in BAD_LINES]
    lines += [
        f'{{"{secret}": NaN}}',
        f'{{"{secret}": 1, "{secret}": 2}}',
        f"{{{secret}",
        chat({"role": secret}),
    ]

    reading = read_bytes(tmp_path, "\n".join([GOOD % 1, *lines]).encode(), limits=Limits(listed=100))

    assert len(reading.findings) >= len(lines)
    assert not [f for f in reading.findings if secret in f.message + f.cure]


def test_each_bomb_of_brackets_or_quotes_is_refused_by_its_line(tmp_path: Path) -> None:
    bombs = [
        b"[" * 900_000,
        b'{"a":' * 150_000,
        b'"' * 900_000,
        b'{"messages":[' + b"{}," * 200_000,
        b"\\ud800" * 99,
    ]
    reading = read_bytes(tmp_path, b"\n".join([(GOOD % 1).encode(), *bombs]))
    assert {line for line, _ in codes(reading)} == {2, 3, 4, 5, 6}


FRAGMENTS = st.sampled_from(
    [b"{", b"}", b"[", b"]", b'"', b":", b",", b";", b"\t", b"\n", b"\r\n", b"\\", b"\\ud800", b"\xff",
     b"\x00", b"text,label\n", b'{"messages": [', b'{"role": "user", "content": "x"}', b"NaN", b"1e999",
     b"\xef\xbb\xbf", (GOOD % 1).encode(), b'{"prompt": "a", "completion": "b"}', b"tool_calls",
     "é\u2028".encode()]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(content=st.one_of(st.binary(max_size=400), st.lists(FRAGMENTS, max_size=30).map(b"".join)))
def test_no_bytes_make_reading_raise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    reading = read_bytes(tmp_path_factory.getbasetemp(), content)
    assert reading.examples or reading.findings or content.strip()
    for example in reading.examples:
        assert example.answer.strip()
        assert json.loads(example.row or b"{}") is not None


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1),
    label=st.text(st.characters(codec="utf-8"), min_size=1),
)
def test_any_text_survives_json(tmp_path_factory: pytest.TempPathFactory, text: str, label: str) -> None:
    assume(not is_blank(text) and not is_blank(label))
    line = chat({"role": "user", "content": text}, {"role": "assistant", "content": label})
    (example,) = read_bytes(tmp_path_factory.getbasetemp(), line.encode()).examples
    assert (example.prompt[0].content, example.answer) == (text, label)


@pytest.mark.parametrize(
    ("line", "dropped"),
    [
        (chat(USER, REPLY)[:-1] + ', "metadata": {"who": "Anna"}}', "it was dropped: metadata"),
        (chat({**USER, "colour": "red"}, {**REPLY, "b\u202e": 1}), "they were dropped: b, colour"),
        (chat({**USER, **{f"k{n}": n for n in range(8)}}, REPLY), "dropped: k0, k1, k2, k3, k4 and 3 more"),
        (chat(USER, {**REPLY, "anna@example.org": "Anna"}), "it was dropped"),
        (chat(USER, {**REPLY, "a customer's words " * 3: 1}), "it was dropped"),
        ('{"prompt": "q", "completion": "a", "id": 7}', "it was dropped: id"),
    ],
)
def test_dropped_keys_are_reported_by_line_and_name_but_never_by_value(
    tmp_path: Path, line: str, dropped: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line)
    (finding,) = read(path, "rows.jsonl").findings
    assert (finding.line, finding.severity, finding.code) == (1, "tells", "dropped_keys")
    assert finding.message.endswith(f"{dropped}.")
    assert "Anna" not in finding.message and "red" not in finding.message


def test_keys_that_trainers_know_are_not_reported(tmp_path: Path) -> None:
    line = chat(USER, {**REPLY, "name": "bot", "weight": 1, "refusal": None})
    assert read_bytes(tmp_path, line.encode()).findings == ()
