"""Reads a vendor's answers with the vendor's own types: JSON of [[type, answer], …] from stdin, a type being a module
and a class, such as "together.types.finetune_response.FinetuneResponse". Prints what is wrong, a line each."""

import importlib
import json
import sys

from pydantic import ValidationError


def find_problems(name, answer):
    """Yields each field that is missing, has a value that the type doesn't allow, or isn't in the type."""
    module, _, cls = name.rpartition(".")
    model = getattr(importlib.import_module(module), cls)
    try:
        read = model.model_validate(answer)
    except ValidationError as error:
        for each in error.errors():
            place = ".".join(str(part) for part in each["loc"])
            yield f"{cls}.{place}: {each['msg']}"
        return
    for field in sorted(read.model_extra or {}):
        yield f"{cls}.{field}: there is no such field"


for name, answer in json.load(sys.stdin):
    for problem in find_problems(name, answer):
        print(problem)
