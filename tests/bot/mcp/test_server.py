"""`finetune mcp`, asked by the official client over a real process: what it lists, answers, refuses and ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters, stdio_client

from bot.cli import main
from bot.mcp.tools import TOOLS, offered
from tests.bot.cli_runner import ROOT, finetune_json, write_tickets
from tests.peers.hosted import CHAT_SETTINGS, KEY, Hosted
from tests.peers.service import Service

PAID = {"model": ["acme/large"], "candidates": "zero"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("FINETUNE_CONFIG", "SLACK_BOT_TOKEN", "SLACK_APP_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return folder


@asynccontextmanager
async def server(folder: Path, *options: str) -> AsyncIterator[Client]:
    environment = {
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": os.environ["XDG_STATE_HOME"],
        "ACME_KEY": KEY,
    }
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "bot", "mcp", *options, str(folder)], env=environment
    )
    with (folder.parent / "server.log").open("w") as log:
        async with Client(stdio_client(command, errlog=log)) as client:
            yield client


def with_server(folder: Path, ask: Callable[[Client], Awaitable[Any]], *options: str) -> Any:
    async def connect() -> Any:
        async with server(folder, *options) as client:
            return await ask(client)

    return anyio.run(connect)


async def text_of(client: Client, tool: str, **arguments: Any) -> tuple[str, bool]:
    result = await client.call_tool(tool, arguments)
    return result.content[0].text, result.is_error


def test_it_lists_eight_tools_with_all_four_hints(folder: Path) -> None:
    tools = with_server(folder, lambda client: client.list_tools()).tools
    assert [tool.name for tool in tools] == [spec.name for spec in TOOLS]
    for tool in tools:
        hints = tool.annotations
        assert hints.destructive_hint is False and hints.idempotent_hint is True
        assert hints.read_only_hint is (tool.name != "baseline")
        assert hints.open_world_hint is (tool.name in ("baseline", "plan_memory"))
    schemas = {tool.name: tool.input_schema for tool in tools}
    assert schemas["check"]["required"] == schemas["estimate"]["required"] == ["file"]
    assert {"fix", "json"}.isdisjoint(schemas["check"]["properties"])
    assert {"waive", "max_usd", "json"}.isdisjoint(schemas["baseline"]["properties"])
    assert schemas["plan_memory"]["properties"]["method"]["enum"] == ["lora", "qlora", "8bit", "full"]
    assert schemas["plan_memory"]["properties"]["length"]["minimum"] == 16
    assert schemas["curve"]["properties"]["predict"]["items"] == {"type": "integer", "minimum": 1}
    assert schemas["compare"]["properties"]["results"]["minItems"] == 1


def test_every_option_of_a_tool_has_a_description_by_the_command() -> None:
    for spec in TOOLS:
        command = main.commands[spec.command]
        assert command.help
        assert set(spec.asks) <= set(offered(spec, command))
        named = {option.name for option in command.params} | {
            option.opts[0].removeprefix("--").replace("-", "_") for option in command.params
        }
        assert set(spec.withheld) <= named


def test_a_check_answers_as_in_the_terminal_and_reports_progress(folder: Path) -> None:
    write_tickets(folder / "tickets.csv", 60)
    (folder / "bad.jsonl").write_text("no JSON\n" * 12)
    heard: list[str] = []

    async def hear(_number: float, _total: float | None, sentence: str | None) -> None:
        heard.append(sentence)

    async def ask(client: Client) -> Any:
        good = await client.call_tool("check", {"file": "tickets.csv"}, progress_callback=hear)
        bad = await client.call_tool("check", {"file": "bad.jsonl"})
        return good, bad

    good, bad = with_server(folder, ask)
    assert timeless(good.structured_content) == timeless(finetune_json("check", "tickets.csv"))
    assert good.content[0].text.startswith("tickets.csv is readable")
    assert heard == ["60 rows read"]
    assert not bad.is_error, "exit code 1 is an answer"
    assert bad.structured_content["rows"] == 0


@pytest.mark.deep
def test_lists_come_as_an_object_and_errors_as_the_commands_sentence(folder: Path) -> None:
    async def ask(client: Client) -> Any:
        prices = await client.call_tool("prices", {"models": ["gpt-4o", "unheard-of"]})
        short = await text_of(client, "plan_memory", model="smollm2-135m", length=1)
        compared = await text_of(client, "compare", results=["3", "m7"])
        unknown = await text_of(client, "sunsets", colour="red")
        return prices, short, compared, unknown

    prices, short, compared, unknown = with_server(folder, ask)
    assert prices.structured_content["result"][0]["model"] == "gpt-4o"
    assert "No price is known for “unheard-of”" in prices.content[0].text
    assert short == ("Invalid value for '--length': 1 is not in the range 16<=x<=131072.", True)
    assert compared[1] and compared[0].startswith("There is no database at data/finetune.db")
    assert unknown[1] and unknown[0].startswith("There is no argument colour.")


@pytest.mark.deep
def test_an_estimate_reads_the_scores_of_an_earlier_baseline_and_a_curve_is_drawn(folder: Path) -> None:
    write_tickets(folder / "tickets.csv", 120)

    async def ask(client: Client) -> Any:
        baseline = await client.call_tool("baseline", {"file": "tickets.csv", "candidates": "classical"})
        question = {"file": "tickets.csv", "current": "gpt-4o", "volume": "20k requests"}
        estimate = await client.call_tool("estimate", {**question, "baseline": ["baseline-1"]})
        curve = await client.call_tool("curve", {"file": "tickets.csv", "predict": [200]})
        sunsets = await client.call_tool("sunsets", {})
        planned = await client.call_tool("plan_memory", {"model": "smollm2-135m", "gpu": "24"})
        return baseline, estimate, curve, sunsets, planned

    baseline, estimate, curve, sunsets, planned = with_server(folder, ask)
    assert baseline.structured_content["rungs"][0]["name"] == "classical"
    assert 'call estimate with baseline ["baseline-1"]' in baseline.content[0].text
    assert "The only measured alternative misses the bar" in estimate.content[0].text
    assert estimate.structured_content["dataset"] == "tickets"
    assert curve.structured_content == finetune_json("curve", "tickets.csv", "--predict", "200")
    assert sunsets.structured_content["result"] == finetune_json("sunsets")
    assert planned.structured_content == finetune_json("plan-memory", "smollm2-135m", "--gpu", "24")


@pytest.mark.deep
def test_without_an_allowance_no_vendors_model_is_asked(folder: Path) -> None:
    write_tickets(folder / "tickets.csv", 60)
    with Hosted(Service(models=("large",)), key=KEY) as company:
        (folder / "finetune.toml").write_text(CHAT_SETTINGS.format(url=company.url))

        async def ask(client: Client) -> Any:
            named = await text_of(client, "baseline", file="tickets.csv", **PAID)
            judged = await text_of(client, "baseline", file="tickets.csv", judge="acme/large")
            # The reason for sending personal data is a person's.
            waived = await text_of(client, "baseline", file="tickets.csv", waive="they agreed to it")
            return named, judged, waived

        named, judged, waived = with_server(folder, ask)
        for text, is_error in (named, judged):
            assert is_error and "this server may spend nothing" in text and "--allow-spend 5" in text
        assert waived[1] and waived[0].startswith("There is no argument waive.")
        assert company.requests == []


@pytest.mark.deep
def test_an_allowance_is_spent_over_all_calls_and_no_further(folder: Path) -> None:
    write_tickets(folder / "tickets.csv", 120)
    (folder / "other.csv").write_text((folder / "tickets.csv").read_text().replace("the", "a"))
    with Hosted(Service(models=("large",), answer=lambda *_: "billing"), key=KEY) as company:
        (folder / "finetune.toml").write_text(CHAT_SETTINGS.format(url=company.url))

        async def ask(client: Client) -> Any:
            first = await text_of(client, "baseline", file="tickets.csv", **PAID)
            after_first = len(company.requests)
            dear = {"file": "other.csv", "model": ["acme/large"], "prompt": "word " * 4000}
            second = await text_of(client, "baseline", **dear)
            return first, after_first, second

        first, after_first, second = with_server(folder, ask, "--allow-spend", "0.10")
        assert not first[1] and "that this server may spend is left." in first[0]
        assert after_first > 0
        assert second[1] and second[0].startswith("This could cost up to $")
        assert len(company.requests) == after_first, "refused before anything is asked"


@pytest.mark.deep
def test_a_cancelled_call_ends_its_process(folder: Path) -> None:
    write_tickets(folder / "tickets.csv", 120)
    processes: list[str] = []

    async def ask(client: Client) -> None:
        async with anyio.create_task_group() as tasks:

            async def cancel(*_: object) -> None:
                processes.append(running(folder))
                tasks.cancel_scope.cancel()

            async def call() -> None:
                await client.call_tool("curve", {"file": "tickets.csv"}, progress_callback=cancel)

            tasks.start_soon(call)
        with anyio.fail_after(60):
            while running(folder):
                await anyio.sleep(0.05)
        # The server goes on.
        await client.list_tools()

    with_server(folder, ask)
    assert processes and "curve --json -- tickets.csv" in processes[0]


def timeless(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name not in ("seconds", "stages")}


def running(folder: Path) -> str:
    """Returns the command lines of the commands that run in the folder."""
    lines = []
    listing = subprocess.run(
        ["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True
    ).stdout
    for line in listing.splitlines():
        pid = line.split()[0]
        if "--for-program" in line and _works_in(folder, pid):
            lines.append(line)
    return "\n".join(lines)


def _works_in(folder: Path, pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").resolve() == folder.resolve()
    except OSError:
        return False
