"""langchain-openai: bind_tools and what they gave, structured output by function calling, the responses API."""

import json
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


class Ticket(BaseModel):
    """How a ticket is sorted."""

    urgent: bool


said = []
for uses_responses in (False, True):
    model = ChatOpenAI(
        model="scripted", base_url=sys.argv[1], api_key=sys.argv[2], use_responses_api=uses_responses
    )
    bound = model.bind_tools([get_weather])
    talk = [HumanMessage("What is the weather in Paris?")]
    called = bound.invoke(talk)
    (call,) = called.tool_calls
    talk += [called, ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])]
    told = bound.invoke(talk).text
    streamed = None
    for chunk in bound.stream(talk[:1]):
        streamed = chunk if streamed is None else streamed + chunk
    forced = model.bind_tools([get_weather], tool_choice="any").invoke("Hello").tool_calls
    ticket = model.with_structured_output(Ticket, method="function_calling").invoke("Sort it.")
    said.append(
        {
            "call": [call["name"], call["args"]],
            "text": told,
            "streamed": [[each["name"], each["args"]] for each in streamed.tool_calls],
            "forced": forced[0]["name"],
            "urgent": ticket.urgent,
        }
    )
print(json.dumps(said))
