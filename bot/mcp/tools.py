"""Which commands of the terminal are tools, and how a tool describes itself. Options are described once, by the
command: a tool's input schema is made from them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click
from mcp import types

from bot.command_options import MODEL_OR_FOLDER


@dataclass(frozen=True)
class ToolSpec:
    """A command as a tool. `asks` are its options that have models asked, which may cost money; `withheld` are those
    that no agent may set. `is_stored` if later calls may read its result by a name, instead of a file."""

    command: str
    is_read_only: bool = True
    is_open_world: bool = False
    asks: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    is_stored: bool = False

    @property
    def name(self) -> str:
        return self.command.replace("-", "_")

    @property
    def annotations(self) -> types.ToolAnnotations:
        # None of them destroys anything, and a repetition adds nothing: answers that were paid for are stored.
        return types.ToolAnnotations(
            read_only_hint=self.is_read_only,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=self.is_open_world,
        )


TOOLS = (
    ToolSpec("check"),
    ToolSpec(
        "baseline",
        # It stores answers, and asks vendors' models.
        is_read_only=False,
        is_open_world=True,
        asks=("model", "judge", "optimise", "writer"),
        # A waiver is a person's reason for sending other people's data to a vendor, recorded under that person's name:
        # an agent would invent one. How much may be spent is the server's to say.
        withheld=("waive", "max_usd"),
        is_stored=True,
    ),
    ToolSpec("curve"),
    ToolSpec("estimate"),
    ToolSpec("prices"),
    ToolSpec("sunsets"),
    # It asks the hub for the dimensions of a model that it doesn't know.
    ToolSpec("plan-memory", is_open_world=True),
    ToolSpec("compare"),
)
"""In the order in which an agent reads them. What starts a training, deploys or deletes is for people."""


def find_tool(name: str) -> ToolSpec | None:
    return next((spec for spec in TOOLS if spec.name == name), None)


def describe(spec: ToolSpec, command: click.Command) -> types.Tool:
    parameters = offered(spec, command)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _schema(parameter) for name, parameter in parameters.items()},
        "additionalProperties": False,
    }
    required = [name for name, parameter in parameters.items() if _is_required(parameter)]
    if required:
        schema["required"] = required
    return types.Tool(
        name=spec.name,
        description=inspect.cleandoc(command.help or ""),
        input_schema=schema,
        output_schema={"type": "object"},
        annotations=spec.annotations,
    )


def offered(spec: ToolSpec, command: click.Command) -> Mapping[str, click.Parameter]:
    """Returns the arguments and options that the tool takes, by their names in its schema."""
    return {
        name: parameter
        for name, parameter in _named(command)
        if name not in spec.withheld and not _is_for_people(parameter)
    }


def is_path(parameter: click.Parameter) -> bool:
    return isinstance(parameter.type, click.Path)


def is_model_or_folder(parameter: click.Parameter) -> bool:
    return parameter.type is MODEL_OR_FOLDER


def is_flag(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and parameter.is_flag


def is_list(parameter: click.Parameter) -> bool:
    return parameter.multiple or parameter.nargs != 1


def _named(command: click.Command) -> Iterator[tuple[str, click.Parameter]]:
    for parameter in command.params:
        name = parameter.opts[0]
        if isinstance(parameter, click.Option):
            name = name.removeprefix("--").replace("-", "_")
        yield name, parameter


def _is_for_people(parameter: click.Parameter) -> bool:
    """True for what a tool has anyway (--json), hidden options, and those that write a file (--fix), without which the
    tools only read."""
    if "--json" in parameter.opts or getattr(parameter, "hidden", False):
        return True
    return isinstance(parameter.type, click.Path) and not parameter.type.exists


def _is_required(parameter: click.Parameter) -> bool:
    # `finetune estimate` checks for its FILE itself, as an old spelling of it is still read.
    return parameter.required or (isinstance(parameter, click.Argument) and is_path(parameter))


def _schema(parameter: click.Parameter) -> dict[str, Any]:
    schema = _value_schema(parameter)
    if is_list(parameter):
        schema = {"type": "array", "items": schema}
        if parameter.required:
            schema["minItems"] = 1
    schema["description"] = _description(parameter)
    # click marks an option without a default by a value of its own.
    if isinstance(parameter.default, str | int | float) and not is_flag(parameter):
        schema["default"] = parameter.default
    return schema


def _value_schema(parameter: click.Parameter) -> dict[str, Any]:
    kind = parameter.type
    if is_flag(parameter):
        return {"type": "boolean"}
    if isinstance(kind, click.Choice):
        return {"type": "string", "enum": list(kind.choices)}
    if isinstance(kind, click.IntRange):
        return {"type": "integer", **_bounds(kind)}
    if isinstance(kind, click.FloatRange):
        return {"type": "number", **_bounds(kind)}
    # Text, also where it is a figure: people write 20k requests, 90% and $1,500.
    return {"type": "string"}


def _bounds(kind: click.IntRange | click.FloatRange) -> dict[str, Any]:
    bounds = {}
    if kind.min is not None:
        bounds["exclusiveMinimum" if kind.min_open else "minimum"] = kind.min
    if kind.max is not None:
        bounds["exclusiveMaximum" if kind.max_open else "maximum"] = kind.max
    return bounds


def _description(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Option) and parameter.help:
        text = parameter.help
    elif isinstance(parameter, click.Option):
        text = parameter.opts[0].removeprefix("--").capitalize() + "."
    else:
        text = f"{(parameter.metavar or parameter.opts[0].upper())} in the tool's description."
    if is_path(parameter):
        text += " A path, absolute or from the server's folder."
    return text
