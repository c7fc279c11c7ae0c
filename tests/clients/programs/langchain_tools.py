"""langchain-openai: bound tools and their results, and structured output, with both APIs."""

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


def use_server(url, key):
    results = []
    for uses_responses in (False, True):
        model = ChatOpenAI(model="scripted", base_url=url, api_key=key, use_responses_api=uses_responses)
        bound = model.bind_tools([get_weather])
        messages = [HumanMessage("What is the weather in Paris?")]
        reply = bound.invoke(messages)
        (call,) = reply.tool_calls
        messages += [reply, ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])]
        answer = bound.invoke(messages).text
        streamed = None
        for chunk in bound.stream(messages[:1]):
            streamed = chunk if streamed is None else streamed + chunk
        forced = model.bind_tools([get_weather], tool_choice="any").invoke("Hello").tool_calls
        ticket = model.with_structured_output(Ticket, method="function_calling").invoke("Sort it.")
        results.append(
            {
                "call": [call["name"], call["args"]],
                "text": answer,
                "streamed": [[each["name"], each["args"]] for each in streamed.tool_calls],
                "forced": forced[0]["name"],
                "urgent": ticket.urgent,
            }
        )
    return results


print(json.dumps([use_server(server["url"], server["key"]) for server in json.loads(sys.argv[1])]))
