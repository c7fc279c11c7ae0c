"""Other people's packages, as their users call them, against our trainer with the scripted model, and against the door
in front of it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from tests.clients.conftest import Address
from tests.clients.environment import CLIENTS, PROGRAMS, node, python

WEATHER = ["get_weather", {"city": "Paris"}]
SUNNY = "It is sunny in Paris."


def run_program(address: Address, program: str, interpreter: str) -> Any:
    """Returns the JSON in the program's last line. Its environment names no other server."""
    options = [] if address.has_completions else ["no-completions"]
    process = subprocess.run(
        [interpreter, str(PROGRAMS / program), address.url, address.key, *options],
        cwd=CLIENTS,
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.strip().splitlines()[-1])


def test_instructor_gets_its_class_from_a_call(address: Address) -> None:
    tickets = run_program(address, "instructor_tools.py", python())
    assert len(tickets) == 4
    for ticket in tickets:
        assert ticket["label"] in ("billing", "login")
        assert isinstance(ticket["level"], int)


def test_a_pydantic_ai_agent_uses_its_tool_and_answers_in_its_type(address: Address) -> None:
    for result in run_program(address, "pydantic_ai_agent.py", python()):
        assert (result["text"], result["cities"]) == (SUNNY, ["Paris"])
        assert isinstance(result["ticket"]["urgent"], bool)


def test_langchain_binds_tools_streams_calls_and_returns_results(address: Address) -> None:
    for result in run_program(address, "langchain_tools.py", python()):
        assert (result["call"], result["text"]) == (WEATHER, SUNNY)
        assert result["streamed"] == [WEATHER]
        assert result["forced"] == "get_weather"
        assert isinstance(result["urgent"], bool)


def test_litellm_calls_tools_and_gets_texts_and_responses(address: Address) -> None:
    text = "Good morning." if address.has_completions else None
    assert run_program(address, "litellm_tools.py", python()) == {
        "reason": "tool_calls",
        "call": WEATHER,
        "answer": SUNNY,
        "streamed": "get_weather",
        "text": text,
        "response": "Good morning.",
    }


def test_openai_for_node_runs_tools(address: Address) -> None:
    expected = {"cities": ["Paris", "Paris"], "answers": [SUNNY, SUNNY], "response": "Good morning."}
    assert run_program(address, "run_tools.mjs", node()) == expected
