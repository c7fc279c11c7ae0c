"""Runs `finetune …` in this process, as a person would type it, and reads what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from bot.cli import main

ROOT = Path(__file__).parents[2]
TICKETS = ROOT / "examples" / "support_tickets.csv"


def finetune(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def finetune_json(*arguments: str | Path) -> dict[str, Any]:
    """Returns what a command that ends well prints with --json."""
    result = finetune(*arguments, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def ticket_lines(rows: int) -> list[str]:
    """Returns the header and the first rows of the example, each with its line end."""
    return TICKETS.read_text(encoding="utf-8").splitlines(keepends=True)[: rows + 1]


def write_tickets(path: Path, rows: int) -> Path:
    path.write_text("".join(ticket_lines(rows)), encoding="utf-8")
    return path
