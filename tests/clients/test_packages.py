"""Other people's packages, as their users call them, against our trainer with the scripted model, and against the door
in front of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest

from tests.clients.conftest import Address
from tests.clients.environment import CLIENTS, PROGRAMS, node, python

WEATHER = ["get_weather", {"city": "Paris"}]
SUNNY = "It is sunny in Paris."


class Programs:
    """Runs a program against all servers at once, as it takes seconds of CPU time to import a package."""

    def __init__(self, servers: Mapping[str, Address]) -> None:
        self._servers = servers
        self._results: dict[str, dict[str, Any]] = {}

    def result(self, program: str, interpreter: str, server: str) -> Any:
        if program not in self._results:
            results = self._run(program, interpreter)
            self._results[program] = dict(zip(self._servers, results, strict=True))
        return self._results[program][server]

    def _run(self, program: str, interpreter: str) -> Any:
        """Returns the JSON in the program's last line. Its environment names no other server."""
        servers = json.dumps([asdict(server) for server in self._servers.values()])
        process = subprocess.run(
            [interpreter, str(PROGRAMS / program), servers],
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


@pytest.fixture(scope="session")
def programs(addresses: dict[str, Address]) -> Programs:
    return Programs(addresses)


@pytest.fixture(params=["trainer", "door"])
def server(request: pytest.FixtureRequest) -> str:
    """Our trainer, and the door in front of it."""
    return str(request.param)


@pytest.mark.deep
def test_instructor_gets_its_class_from_a_call(programs: Programs, server: str) -> None:
    tickets = programs.result("instructor_tools.py", python(), server)
    assert len(tickets) == 4
    for ticket in tickets:
        assert ticket["label"] in ("billing", "login")
        assert isinstance(ticket["level"], int)


@pytest.mark.deep
def test_a_pydantic_ai_agent_uses_its_tool_and_answers_in_its_type(programs: Programs, server: str) -> None:
    for result in programs.result("pydantic_ai_agent.py", python(), server):
        assert (result["text"], result["cities"]) == (SUNNY, ["Paris"])
        assert isinstance(result["ticket"]["urgent"], bool)


@pytest.mark.deep
def test_langchain_binds_tools_streams_calls_and_returns_results(programs: Programs, server: str) -> None:
    for result in programs.result("langchain_tools.py", python(), server):
        assert (result["call"], result["text"]) == (WEATHER, SUNNY)
        assert result["streamed"] == [WEATHER]
        assert result["forced"] == "get_weather"
        assert isinstance(result["urgent"], bool)


@pytest.mark.deep
def test_litellm_calls_tools_and_gets_texts_and_responses(programs: Programs, server: str) -> None:
    text = "Good morning." if server == "trainer" else None
    assert programs.result("litellm_tools.py", python(), server) == {
        "reason": "tool_calls",
        "call": WEATHER,
        "answer": SUNNY,
        "streamed": "get_weather",
        "text": text,
        "response": "Good morning.",
    }


def test_openai_for_node_runs_tools(programs: Programs, server: str) -> None:
    expected = {"cities": ["Paris", "Paris"], "answers": [SUNNY, SUNNY], "response": "Good morning."}
    assert programs.result("run_tools.mjs", node(), server) == expected
