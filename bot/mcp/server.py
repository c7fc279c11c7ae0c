"""Speaks the Model Context Protocol on stdin and stdout: lists the tools, and has calls carried out."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import click
from mcp import MCPError, types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from bot.mcp.arguments import Folders
from bot.mcp.calls import Allowance, Calls
from bot.mcp.tools import TOOLS, describe, find_tool
from trainers.money import usd_micros

Context = ServerRequestContext[Any, Any]
PURPOSE = """Finds out on evidence whether fine-tuning a language model on a file of labelled examples pays, and what is
cheaper: check the file first, measure the free alternatives with baseline, then estimate cost and savings."""


def serve(commands: Mapping[str, click.Command], folders: Sequence[Path], allowed_micros: int) -> None:
    """Serves until stdin ends. `commands` are those of the terminal; files are read below `folders` only, and calls may
    cost `allowed_micros` together."""
    roots = tuple(folder.resolve() for folder in folders)
    with tempfile.TemporaryDirectory(prefix="finetune-mcp-") as store:
        calls = Calls(commands, Folders(roots), Allowance(allowed_micros), Path(store))
        anyio.run(_serve, calls)


async def _serve(calls: Calls) -> None:
    server = Server(
        "finetune",
        version=version("finetune-bot"),
        instructions=instructions(calls),
        on_list_tools=partial(_list_tools, calls),
        on_call_tool=partial(_call_tool, calls),
    )
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def instructions(calls: Calls) -> str:
    """What an agent should know of all tools."""
    folders = ", ".join(map(str, calls.folders.roots))
    money = (
        "Nothing may be spent: only free candidates and models of the own trainer (local/…) can be measured."
    )
    if calls.allowance.limit_micros:
        money = f"Calls may cost {usd_micros(calls.allowance.limit_micros)} together."
    return f"{PURPOSE.replace(chr(10), ' ')}\nFiles are read below {folders}.\n{money}"


async def _list_tools(
    calls: Calls, _context: Context, _page: types.PaginatedRequestParams | None
) -> types.ListToolsResult:
    tools = [describe(spec, calls.commands[spec.command]) for spec in TOOLS]
    return types.ListToolsResult(tools=tools)


async def _call_tool(
    calls: Calls, context: Context, call: types.CallToolRequestParams
) -> types.CallToolResult:
    spec = find_tool(call.name)
    if spec is None:
        names = ", ".join(each.name for each in TOOLS)
        raise MCPError(types.INVALID_PARAMS, f"There is no tool {call.name}. Available: {names}.")
    return await calls.carry_out(spec, call.arguments or {}, _progress(context))


def _progress(context: Context) -> Callable[[str], Awaitable[None]]:
    """Sends sentences to a client that asked for progress. They are numbered, as what a command has done in parts is
    not the share of all that it will do."""
    numbers = count(1)

    async def say(sentence: str) -> None:
        await context.session.report_progress(next(numbers), message=sentence)

    return say
