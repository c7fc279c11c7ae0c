"""instructor: the answer is a call of a function that is made from the class, in its default mode TOOLS and others."""

import json
import sys
from typing import Literal

import instructor
from pydantic import BaseModel


class Ticket(BaseModel):
    label: Literal["billing", "login"]
    level: int


client = instructor.from_provider("openai/scripted", base_url=sys.argv[1], api_key=sys.argv[2])
messages = [{"role": "user", "content": "My card was charged twice."}]
ticket = client.create(response_model=Ticket, messages=messages, max_retries=0)
strict = instructor.from_provider(
    "openai/scripted", base_url=sys.argv[1], api_key=sys.argv[2], mode=instructor.Mode.TOOLS_STRICT
).create(response_model=Ticket, messages=messages, max_retries=0)
partial = list(client.create_partial(response_model=Ticket, messages=messages, max_retries=0))[-1]
responses = instructor.from_provider(
    "openai/scripted", base_url=sys.argv[1], api_key=sys.argv[2], mode=instructor.Mode.RESPONSES_TOOLS
).create(response_model=Ticket, messages=messages, max_retries=0)
print(json.dumps([each.model_dump() for each in (ticket, strict, partial, responses)]))
