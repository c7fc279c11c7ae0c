"""pydantic-ai: an agent with a tool, and structured output in its default way, a tool that must be called."""

import json
import sys

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class Ticket(BaseModel):
    urgent: bool
    level: int


def run_agent(model: OpenAIChatModel | OpenAIResponsesModel) -> dict[str, object]:
    cities: list[str] = []
    agent = Agent(model)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        cities.append(city)
        return "sunny"

    text = agent.run_sync("What is the weather in Paris?").output
    ticket = Agent(model, output_type=Ticket).run_sync("My card was charged twice.").output
    return {"text": text, "cities": cities, "ticket": ticket.model_dump()}


def use_server(url: str, key: str) -> list[dict[str, object]]:
    provider = OpenAIProvider(base_url=url, api_key=key)
    kinds = (OpenAIChatModel, OpenAIResponsesModel)
    return [run_agent(kind("scripted", provider=provider)) for kind in kinds]


print(json.dumps([use_server(server["url"], server["key"]) for server in json.loads(sys.argv[1])]))
