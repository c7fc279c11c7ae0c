"""Other people's packages, as their users call them, against a trainer with a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from tests.clients.environment import CLIENTS, PROGRAMS, node, python
from tests.local.served import KEY, Served

WEATHER = ["get_weather", {"city": "Paris"}]
TOLD = "It is sunny in Paris."


def said(trainer: Served, program: str, interpreter: str) -> Any:
    """What a program says in its last line, as JSON. It hears of this trainer alone."""
    done = subprocess.run(
        [interpreter, str(PROGRAMS / program), trainer.url, KEY],
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
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_instructor_gets_its_class_by_a_call(trainer: Served) -> None:
    tickets = said(trainer, "instructor_tools.py", python())
    assert len(tickets) == 4
    for ticket in tickets:
        assert ticket["label"] in ("billing", "login")
        assert isinstance(ticket["level"], int)


def test_an_agent_of_pydantic_ai_uses_its_tool_and_answers_in_its_type(trainer: Served) -> None:
    for one in said(trainer, "pydantic_ai_agent.py", python()):
        assert (one["text"], one["asked"]) == (TOLD, ["Paris"])
        assert isinstance(one["ticket"]["urgent"], bool)


def test_langchain_binds_tools_streams_them_and_sends_back_what_they_gave(trainer: Served) -> None:
    for one in said(trainer, "langchain_tools.py", python()):
        assert (one["call"], one["text"]) == (WEATHER, TOLD)
        assert one["streamed"] == [WEATHER]
        assert one["forced"] == "get_weather"
        assert isinstance(one["urgent"], bool)


def test_litellm_calls_tools_and_asks_for_texts_and_responses(trainer: Served) -> None:
    assert said(trainer, "litellm_tools.py", python()) == {
        "reason": "tool_calls",
        "call": WEATHER,
        "told": TOLD,
        "streamed": "get_weather",
        "text": "Good morning.",
        "response": "Good morning.",
    }


def test_openai_for_node_runs_tools_by_itself(trainer: Served) -> None:
    expected = {"asked": ["Paris", "Paris"], "said": [TOLD, TOLD], "response": "Good morning."}
    assert said(trainer, "run_tools.mjs", node()) == expected
