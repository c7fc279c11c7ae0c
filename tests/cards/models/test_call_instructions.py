"""What a promotion's card tells programs: lines that can be run as they are."""

from __future__ import annotations

import ast
import json
import shlex

from bot.cards.models.call_instructions import Calling, calling_blocks, calling_text, curl_line, python_lines

CALLING = Calling("team/tickets", "http://127.0.0.1:8024/v1", "/var/lib/finetune/data/serving/call.key")


def test_the_python_is_five_lines_that_can_be_run() -> None:
    lines = python_lines(CALLING)
    assert len(ast.parse(lines).body) == len(lines.splitlines()) == 5


def test_the_shell_reads_the_curl_as_one_request() -> None:
    words = shlex.split(curl_line(CALLING))
    assert words[:2] == ["curl", "http://127.0.0.1:8024/v1/chat/completions"]
    assert json.loads(words[-1])["model"] == "team/tickets"


def test_without_an_address_the_setting_is_named() -> None:
    nowhere = Calling("team/tickets", None, "call.key")
    assert "`address` under [serving]" in str(calling_blocks(nowhere))
    assert "address under [serving]" in calling_text(nowhere)
