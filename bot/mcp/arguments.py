"""Turns an agent's arguments into the words of a command line, and holds its paths to the folders that a person named.
The command itself checks values, as it does for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bot.mcp.tools import is_flag, is_list, is_model_or_folder, is_path
from bot.values.runs import Refusal


@dataclass(frozen=True)
class Folders:
    """The folders below which files may be read, absolute and without symbolic links. Commands run in the first one.
    `stored` are results of earlier calls, by the names under which the agent knows them."""

    roots: tuple[Path, ...]
    stored: dict[str, Path] = field(default_factory=dict)

    def read_path(self, text: str) -> str | Refusal:
        """Returns the path as a command run in the first folder names it. Refuses what is elsewhere, also behind a
        symbolic link."""
        if text in self.stored:
            return str(self.stored[text])
        try:
            path = (self.roots[0] / Path(text).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError):  # a loop of links, an unknown ~user, a byte 0
            return Refusal(f"{text!r} can't be read as a path.")
        if not any(path.is_relative_to(root) for root in self.roots):
            roots = ", ".join(map(str, self.roots))
            return Refusal(
                f"{text} is outside of what this server may read: {roots}. Use a file there, or start the server with "
                "its folder, too: finetune mcp FOLDER …"
            )
        return self._short(path)

    def is_here(self, text: str) -> bool:
        """True if the text is a path, rather than the name of a model."""
        try:
            path = Path(text).expanduser()
            return path.is_absolute() or text.startswith((".", "~")) or (self.roots[0] / path).exists()
        except (OSError, RuntimeError, ValueError):
            return True

    def _short(self, path: Path) -> str:
        if not path.is_relative_to(self.roots[0]):
            return str(path)
        short = str(path.relative_to(self.roots[0]))
        # A command would read a leading ~ as a home, and an equals sign as an option in Slack's spelling.
        if short.startswith("~") or "=" in short:
            return str(path)
        return short


def command_words(
    parameters: Mapping[str, click.Parameter], arguments: Mapping[str, Any], folders: Folders
) -> tuple[str, ...] | Refusal:
    """Returns the words that follow the command's name."""
    unknown = [name for name in arguments if name not in parameters]
    if unknown:
        return Refusal(f"There is no argument {', '.join(unknown)}. Possible are {', '.join(parameters)}.")
    options: list[str] = []
    others: list[str] = []
    for name, parameter in parameters.items():
        texts = _texts(name, parameter, arguments.get(name), folders)
        if isinstance(texts, Refusal):
            return texts
        if isinstance(parameter, click.Argument):
            others += texts
        elif is_flag(parameter):
            options += [parameter.opts[0] for _ in texts]
        else:
            options += [f"{parameter.opts[0]}={text}" for text in texts]
    # Whatever follows the dashes is no option, even if it looks like one.
    return (*options, "--", *others)


def _texts(name: str, parameter: click.Parameter, value: Any, folders: Folders) -> Sequence[str] | Refusal:
    """Returns the parameter's values as words; for a flag that is set, one word."""
    if value is None:
        return []
    if is_flag(parameter):
        if not isinstance(value, bool):
            return Refusal(f"{name} should be true or false.")
        return [name] if value else []
    values = value
    if not isinstance(value, list):
        values = [value]
    elif not is_list(parameter):
        return Refusal(f"{name} should be a single value, not a list.")
    texts = []
    for text in _words(values):
        if text is None:
            return Refusal(f"{name} should be a text or a number.")
        if is_path(parameter) or (is_model_or_folder(parameter) and folders.is_here(text)):
            path = folders.read_path(text)
            if isinstance(path, Refusal):
                return path
            text = path
        texts.append(text)
    return texts


def _words(values: Sequence[Any]) -> Iterator[str | None]:
    """Yields each value as a person would type it, None for one that is neither a text nor a number."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            yield None
        elif isinstance(value, float) and value.is_integer():
            yield str(int(value))  # JSON from JavaScript may have 10.0 for 10
        else:
            yield str(value)
