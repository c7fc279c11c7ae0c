"""instructor: the answer is a call of a function that is made from the class, in its default mode TOOLS and others."""

import json
import sys
from typing import Literal

import instructor
from pydantic import BaseModel


class Ticket(BaseModel):
    label: Literal["billing", "login"]
    level: int


def use_server(url, key):
    client = instructor.from_provider("openai/scripted", base_url=url, api_key=key)
    messages = [{"role": "user", "content": "My card was charged twice."}]
    ticket = client.create(response_model=Ticket, messages=messages, max_retries=0)
    strict = instructor.from_provider(
        "openai/scripted", base_url=url, api_key=key, mode=instructor.Mode.TOOLS_STRICT
    ).create(response_model=Ticket, messages=messages, max_retries=0)
    partial = list(client.create_partial(response_model=Ticket, messages=messages, max_retries=0))[-1]
    responses = instructor.from_provider(
        "openai/scripted", base_url=url, api_key=key, mode=instructor.Mode.RESPONSES_TOOLS
    ).create(response_model=Ticket, messages=messages, max_retries=0)
    return [each.model_dump() for each in (ticket, strict, partial, responses)]


print(json.dumps([use_server(server["url"], server["key"]) for server in json.loads(sys.argv[1])]))
