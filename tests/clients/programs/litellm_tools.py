"""litellm: a completion with tools, a stream, a text completion and the responses API."""

import json
import sys

import litellm

litellm.telemetry = False


def use_server(url, key, has_completions):
    scripted = {"model": "openai/scripted", "api_base": url, "api_key": key}
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    choice = litellm.completion(**scripted, messages=messages, tools=[tool]).choices[0]
    call = choice.message.tool_calls[0]
    messages += [choice.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    answer = litellm.completion(**scripted, messages=messages, tools=[tool]).choices[0].message.content
    chunks = list(litellm.completion(**scripted, messages=messages[:1], tools=[tool], stream=True))
    streamed = litellm.stream_chunk_builder(chunks).choices[0]
    text = None
    if has_completions:
        completion = litellm.text_completion(
            model="text-completion-openai/scripted", api_base=url, api_key=key, prompt="<|plain|>"
        )
        text = completion.choices[0].text
    response = litellm.responses(**scripted, input="Hello")
    return {
        "reason": choice.finish_reason,
        "call": [call.function.name, json.loads(call.function.arguments)],
        "answer": answer,
        "streamed": streamed.message.tool_calls[0].function.name,
        "text": text,
        "response": response.output[0].content[0].text,
    }


print(
    json.dumps(
        [
            use_server(server["url"], server["key"], server["has_completions"])
            for server in json.loads(sys.argv[1])
        ]
    )
)
