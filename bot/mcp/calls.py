"""Carries out an agent's call: as a process of its own, within the dollars that a person allowed, and turns what the
command prints into the call's result."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import click
from mcp import types

from bot.mcp.arguments import Folders, command_words
from bot.mcp.processes import Outcome, run_command
from bot.mcp.reports import Report
from bot.mcp.tools import ToolSpec, offered
from bot.values.runs import Refusal
from trainers.host import child_environment
from trainers.money import from_micros, usd_micros

HAS_ANSWERED = (0, 1)  # 1 is an answer of no, such as a file with a problem
OWN_MODELS = "local/"
HOW_TO_ALLOW = (
    "A person allows it when starting the server: with --allow-spend 5, all calls together may cost $5."
)
Say = Callable[[str], Awaitable[None]]


@dataclass
class Allowance:
    """What calls may cost together over the life of the server, in micro-dollars, and what was booked of it."""

    limit_micros: int
    booked_micros: int = 0

    @property
    def left_micros(self) -> int:
        return max(0, self.limit_micros - self.booked_micros)


@dataclass
class Bill:
    """What a command has reported of its cost so far."""

    refused_micros: int = 0
    most_micros: int = 0
    spent_micros: int | None = None

    def add(self, report: Report) -> None:
        if report.refused_micros is not None:
            self.refused_micros = report.refused_micros
        if report.most_micros is not None:
            self.most_micros = report.most_micros
        if report.spent_micros is not None:
            self.spent_micros = report.spent_micros

    @property
    def owed_micros(self) -> int:
        """What was spent, or the maximum of a command that ended early: questions under way may be billed."""
        if self.spent_micros is None:
            return self.most_micros
        return self.spent_micros


@dataclass
class Calls:
    """Carries out calls. `commands` are those of the terminal. `store` is a folder for results that later calls may
    read."""

    commands: Mapping[str, click.Command]
    folders: Folders
    allowance: Allowance
    store: Path
    # An allowance is spent by one call after another, so that each knows what is left of it.
    spending: anyio.Lock = field(default_factory=anyio.Lock)

    async def carry_out(self, spec: ToolSpec, arguments: Mapping[str, Any], say: Say) -> types.CallToolResult:
        parameters = offered(spec, self.commands[spec.command])
        words = command_words(parameters, arguments, self.folders)
        if isinstance(words, Refusal):
            return _error(words.text)
        if spec.asks:
            return await self._spend(spec, arguments, words, say)
        # Without secrets: only asking models needs keys.
        ended = await self._run(spec, words, child_environment(), say, Bill())
        return self._result(spec, ended)

    async def _spend(
        self, spec: ToolSpec, arguments: Mapping[str, Any], words: Sequence[str], say: Say
    ) -> types.CallToolResult:
        environment: Mapping[str, str] = os.environ
        if not self.allowance.limit_micros:
            if _asks_others(spec, arguments):
                return _error(
                    f"This asks models that cost money, and this server may spend nothing. {HOW_TO_ALLOW}"
                )
            # A finetune.toml in the folder could send a key anywhere, so without an allowance there is none.
            environment = child_environment()
        async with self.spending:
            return await self._spend_alone(spec, words, environment, say)

    async def _spend_alone(
        self, spec: ToolSpec, words: Sequence[str], environment: Mapping[str, str], say: Say
    ) -> types.CallToolResult:
        bill = Bill()
        limit = f"--max-usd={from_micros(self.allowance.left_micros)}"
        try:
            outcome = await self._run(spec, (limit, *words), environment, say, bill)
        finally:
            self.allowance.booked_micros += bill.owed_micros
        if bill.refused_micros:
            return _error(
                f"This could cost up to {usd_micros(bill.refused_micros)}, and {self._balance()} Name fewer models or "
                f"candidates. {HOW_TO_ALLOW}"
            )
        if not bill.owed_micros:
            return self._result(spec, outcome)
        cost = "cost" if bill.spent_micros is not None else "may have cost up to"
        return self._result(spec, outcome, f"This {cost} {usd_micros(bill.owed_micros)}; {self._balance()}")

    async def _run(
        self, spec: ToolSpec, words: Sequence[str], environment: Mapping[str, str], say: Say, bill: Bill
    ) -> Outcome:
        async def listen(report: Report) -> None:
            bill.add(report)
            if report.progress:
                await say(report.progress)

        command = (spec.command, "--json", *words)
        return await run_command(command, self.folders.roots[0], environment, listen)

    def _balance(self) -> str:
        left = usd_micros(self.allowance.left_micros)
        return f"{left} of the {usd_micros(self.allowance.limit_micros)} that this server may spend is left."

    def _result(self, spec: ToolSpec, outcome: Outcome, *notes: str) -> types.CallToolResult:
        """Returns what the command printed: its JSON, and its text with what it said on stderr."""
        if outcome.code not in HAS_ANSWERED or not outcome.stdout:
            ended = f"finetune {spec.command} ended with exit code {outcome.code}."
            return _error("\n".join([outcome.sentences or ended, *notes]))
        value, end = json.JSONDecoder().raw_decode(outcome.stdout)
        texts = [outcome.stdout[end:].strip(), outcome.sentences, *notes]
        if spec.is_stored:
            name = self._keep(spec, value)
            texts.append(f'To use these scores in an estimate, call estimate with {spec.name} ["{name}"].')
        # Before 2026-07-28 the protocol has objects only.
        structured = value if isinstance(value, dict) else {"result": value}
        text = "\n\n".join(filter(None, texts))
        return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=structured)

    def _keep(self, spec: ToolSpec, value: Any) -> str:
        name = f"{spec.name}-{len(self.folders.stored) + 1}"
        path = self.store / f"{name}.json"
        path.write_text(json.dumps(value), encoding="utf-8")
        self.folders.stored[name] = path
        return name


def _asks_others(spec: ToolSpec, arguments: Mapping[str, Any]) -> bool:
    """True if an option has a model asked that our own trainer doesn't serve."""
    for name in spec.asks:
        value = arguments.get(name)
        if value is None:
            continue
        models = value if isinstance(value, list) else [value]
        if not all(str(model).startswith(OWN_MODELS) for model in models):
            return True
    return False


def _error(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)
