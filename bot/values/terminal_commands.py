"""The commands of `finetune` in the terminal by name. Imports none of them: bot/cli does, when one is called.

Slack reads these names too, so that a command of the terminal that somebody types there is answered with its line.
"""

from __future__ import annotations

from collections.abc import Mapping

MODULES: Mapping[str, tuple[str, ...]] = {
    "server": ("init", "run", "trainer", "serve", "mcp", "doctor", "demo"),
    "analysis": (
        "check",
        "baseline",
        "curve",
        "estimate",
        "import-traces",
        "prices",
        "sunsets",
        "plan-memory",
        "calibrate",
    ),
    "exports": ("export",),
    "admin": (
        "engines",
        "deployments",
        "models",
        "report",
        "compare",
        "wrong",
        "audit",
        "log",
        "backup",
        "restore",
        "forget",
        "knowledge",
    ),
    "policy": ("policy",),
    "models": ("promote", "rollback", "fallback", "current", "watch"),
}
# The commands that follow a group's name.
SUBCOMMANDS: Mapping[str, tuple[str, ...]] = {
    "engines": ("list", "install", "remove"),
    "models": ("advise",),
    "audit": ("verify", "export"),
    "policy": ("check", "explain"),
}
# The help of `finetune` describes these commands, in the order in which people use them, and lists the others by task.
FIRST = {
    "check": "Check that a file of labelled examples is ready to train on.",
    "baseline": "Measure how good cheaper ways are, on held-out rows.",
    "estimate": "Estimate what training would cost and save.",
    "init": "Set up the Slack app in a folder, step by step.",
    "run": "Run the Slack app, with its own trainer.",
}
OTHERS = {
    "Before a run": ("import-traces", "curve", "prices", "sunsets", "plan-memory", "calibrate"),
    "After a run": ("report", "compare", "wrong", "models", "deployments", "export"),
    "Trainers": ("trainer", "engines"),
    "Programs": ("promote", "rollback", "fallback", "current", "watch", "serve", "mcp"),
    "Installation": ("doctor", "policy", "log", "audit", "backup", "restore", "knowledge", "forget"),
}
TERMINAL_COMMANDS = tuple(name for names in MODULES.values() for name in names)


def is_subcommand(name: str, word: str) -> bool:
    """True if the word after a command's name makes it a command of the terminal, like `audit verify`."""
    return word in SUBCOMMANDS.get(name, ())
