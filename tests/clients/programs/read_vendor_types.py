"""Reads a vendor's answers, and requests to it, with the vendor's own types: JSON of [[type, value], …] from stdin, a
type being a module and a class, such as "together.types.finetune_response.FinetuneResponse". Prints what is wrong, a
line each.

An answer is read by a model of pydantic, a request by a TypedDict, whose keys are the names that are sent."""

import importlib
import json
import sys
from typing import Annotated, Required, get_args, get_origin, get_type_hints

import typing_extensions
from pydantic import TypeAdapter, ValidationError


def find_problems(name, value):
    """Yields each field that is missing, has a value that the type doesn't allow, or isn't in the type."""
    module, _, cls = name.rpartition(".")
    model = getattr(importlib.import_module(module), cls)
    if typing_extensions.is_typeddict(model):
        yield from find_request_problems(model, value, cls)
        return
    try:
        read = model.model_validate(value)
    except ValidationError as error:
        yield from messages_of(error, cls)
        return
    for field in sorted(read.model_extra or {}):
        yield f"{cls}.{field}: there is no such field"


def find_request_problems(cls, body, place):
    fields = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        sent_as, kind, is_required = unwrapped(name, hint)
        fields[sent_as] = kind
        if is_required and sent_as not in body:
            yield f"{place}.{sent_as}: Field required"
    for name, value in body.items():
        if name not in fields:
            yield f"{place}.{name}: there is no such field"
        elif typing_extensions.is_typeddict(fields[name]):
            yield from find_request_problems(fields[name], value, f"{place}.{name}")
        else:
            try:
                TypeAdapter(fields[name]).validate_python(value)
            except ValidationError as error:
                yield from messages_of(error, f"{place}.{name}")


def unwrapped(name, hint):
    """Returns the name under which a field is sent, its type, and whether it is required."""
    is_required = False
    while get_origin(hint) in (Required, typing_extensions.Required, Annotated):
        if get_origin(hint) is Annotated:
            hint, *notes = get_args(hint)
            aliases = [note.alias for note in notes if getattr(note, "alias", None)]
            name = aliases[0] if aliases else name
        else:
            is_required = True
            (hint,) = get_args(hint)
    return name, hint, is_required


def messages_of(error, place):
    for each in error.errors():
        where = ".".join(str(part) for part in each["loc"])
        yield f"{place}.{where}: {each['msg']}"


for name, value in json.load(sys.stdin):
    for problem in find_problems(name, value):
        print(problem)
