"""Other people's packages, as their users call them, against our trainer with the scripted model."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from tests.clients.environment import CLIENTS, PROGRAMS, node, python
from tests.local.trainer_server import KEY, TrainerServer

WEATHER = ["get_weather", {"city": "Paris"}]
SUNNY = "It is sunny in Paris."


def run_program(trainer: TrainerServer, program: str, interpreter: str) -> Any:
    """Returns the JSON in the program's last line. Its environment names no other server."""
    process = subprocess.run(
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
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.strip().splitlines()[-1])


def test_instructor_gets_its_class_from_a_call(trainer: TrainerServer) -> None:
    tickets = run_program(trainer, "instructor_tools.py", python())
    assert len(tickets) == 4
    for ticket in tickets:
        assert ticket["label"] in ("billing", "login")
        assert isinstance(ticket["level"], int)


def test_a_pydantic_ai_agent_uses_its_tool_and_answers_in_its_type(trainer: TrainerServer) -> None:
    for result in run_program(trainer, "pydantic_ai_agent.py", python()):
        assert (result["text"], result["cities"]) == (SUNNY, ["Paris"])
        assert isinstance(result["ticket"]["urgent"], bool)


def test_langchain_binds_tools_streams_calls_and_returns_results(trainer: TrainerServer) -> None:
    for result in run_program(trainer, "langchain_tools.py", python()):
        assert (result["call"], result["text"]) == (WEATHER, SUNNY)
        assert result["streamed"] == [WEATHER]
        assert result["forced"] == "get_weather"
        assert isinstance(result["urgent"], bool)


def test_litellm_calls_tools_and_gets_texts_and_responses(trainer: TrainerServer) -> None:
    assert run_program(trainer, "litellm_tools.py", python()) == {
        "reason": "tool_calls",
        "call": WEATHER,
        "answer": SUNNY,
        "streamed": "get_weather",
        "text": "Good morning.",
        "response": "Good morning.",
    }


def test_openai_for_node_runs_tools(trainer: TrainerServer) -> None:
    expected = {"cities": ["Paris", "Paris"], "answers": [SUNNY, SUNNY], "response": "Good morning."}
    assert run_program(trainer, "run_tools.mjs", node()) == expected
