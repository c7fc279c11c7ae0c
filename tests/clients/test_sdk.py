"""Tools, the responses API and text completions, by OpenAI's own SDK; answers to chats are held to its description."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel

from tests.local.served import check_chunk

ASKED: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
LABEL = {
    "type": "object",
    "properties": {"label": {"enum": ["billing", "login"]}, "level": {"type": "integer"}},
}
SORT: Any = {
    "type": "function",
    "function": {"name": "sort_ticket", "parameters": {**LABEL, "required": ["label", "level"]}},
}
AS_TEXT = '{"city": "Paris"}'


def ask(client: openai.OpenAI, messages: list[Any] = ASKED, **more: Any) -> ChatCompletion:
    answer: ChatCompletion = client.chat.completions.create(model="scripted", messages=messages, **more)
    return answer


def call_of(answer: ChatCompletion) -> tuple[str, dict[str, Any]]:
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    return call.function.name, json.loads(call.function.arguments)


def test_a_model_calls_a_tool_and_answers_by_what_came_back(client: openai.OpenAI) -> None:
    first = ask(client, tools=[WEATHER, SORT])
    assert first.choices[0].message.content is None
    assert call_of(first) == ("get_weather", {"city": "Paris"})
    (call,) = first.choices[0].message.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    second = ask(client, [*ASKED, first.choices[0].message, result], tools=[WEATHER, SORT])
    assert second.choices[0].message.content == "It is sunny in Paris."
    assert second.choices[0].finish_reason == "stop"


def test_a_stream_has_the_call_with_its_index_and_no_part_of_it_as_text(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="scripted", messages=ASKED, tools=[WEATHER], stream=True)
    chunks = [chunk for chunk in stream if check_chunk(chunk.to_dict()) is None]
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.index, call.function.name) for call in calls if call.function] == [(0, "get_weather")]
    assert calls[0].function
    assert calls[0].function.arguments == AS_TEXT
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ""
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_text_is_streamed_though_tools_could_be_called(client: openai.OpenAI) -> None:
    told = [*ASKED, {"role": "assistant", "content": None, "tool_calls": [made("a")]}]
    told.append({"role": "tool", "tool_call_id": "a", "content": "sunny"})
    stream = client.chat.completions.create(model="scripted", messages=told, tools=[WEATHER], stream=True)
    parts = [chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content]
    assert parts == ["It is sunny", " in Paris."]


def made(call_id: str, arguments: str = AS_TEXT) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def test_the_tool_that_is_named_is_called_with_what_its_schema_wants(client: openai.OpenAI) -> None:
    named = {"type": "function", "function": {"name": "sort_ticket"}}
    name, arguments = call_of(ask(client, tools=[WEATHER, SORT], tool_choice=named))
    assert name == "sort_ticket"
    assert arguments["label"] in ("billing", "login")
    assert isinstance(arguments["level"], int)


def test_one_of_the_tools_is_called_where_that_is_required(client: openai.OpenAI) -> None:
    told = [*ASKED, {"role": "assistant", "content": "", "tool_calls": [made("a")]}]
    told.append({"role": "tool", "tool_call_id": "a", "content": "sunny"})  # it would say so in words
    name, _ = call_of(ask(client, told, tools=[WEATHER, SORT], tool_choice="required"))
    assert name in ("get_weather", "sort_ticket")


def test_no_tool_is_called_where_none_may_be(client: openai.OpenAI) -> None:
    answer = ask(client, tools=[WEATHER], tool_choice="none")
    assert answer.choices[0].message.content == "Good morning."
    assert answer.choices[0].message.tool_calls is None


def test_with_a_format_the_answer_is_of_it_or_a_call(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["sunny", "rainy"]}}}
    said = [ask(client, tools=[WEATHER], response_format=form, seed=seed).choices[0] for seed in range(12)]
    texts = {one.message.content for one in said if one.finish_reason == "stop"}
    assert texts <= {'"sunny"', '"rainy"'}
    assert all(one.message.tool_calls for one in said if one.finish_reason == "tool_calls")


def test_several_answers_have_calls_of_their_own(client: openai.OpenAI) -> None:
    answer = ask(client, tools=[WEATHER], n=3)
    ids = [call.id for choice in answer.choices for call in choice.message.tool_calls or []]
    assert len(set(ids)) == 3
    assert all(len(one) == 9 and one.isalnum() for one in ids)  # Mistral's templates refuse others


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "sometimes"}, "tool_choice"),
        (
            {"messages": [*ASKED, {"role": "assistant", "tool_calls": [made("a", "no JSON")]}]},
            "messages[1].tool_calls[0].function.arguments",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"9999": 1}}, "logit_bias"),
        ({"extra_body": {"structured_outputs": {"grammar": "x"}}}, "structured_outputs"),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, "structured_outputs.regex"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(
    client: openai.OpenAI, more: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **more)
    assert caught.value.param == param
    assert f"'{param}'" in str(caught.value)


def test_who_names_an_earlier_response_is_told_to_send_the_conversation(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Send it in full as 'input'"):
        client.responses.create(model="scripted", input="Hello", previous_response_id="resp_1")


def test_a_strict_tool_whose_schema_cannot_be_kept_is_refused_and_a_loose_one_is_called(
    client: openai.OpenAI,
) -> None:
    tags = {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True, "maxItems": 2}
    schema = {"type": "object", "properties": {"tags": tags}, "required": ["tags"]}
    function = {"name": "tag", "parameters": schema}
    answer = ask(client, tools=[{"type": "function", "function": function}], tool_choice="required")
    assert set(call_of(answer)[1]["tags"]) <= {"a", "b"}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, tools=[{"type": "function", "function": {**function, "strict": True}}])
    assert "uniqueItems" in str(caught.value)


def test_a_refusal_that_is_sent_back_is_read(client: openai.OpenAI) -> None:
    refused = {"role": "assistant", "content": None, "refusal": "I can't say."}
    assert ask(client, [*ASKED, refused, *ASKED]).choices[0].message.content == "Good morning."


def test_effort_is_taken_and_no_token_is_spent_on_it(client: openai.OpenAI) -> None:
    usage = ask(client, reasoning_effort="high").usage
    assert usage
    assert usage.completion_tokens_details
    assert usage.completion_tokens_details.reasoning_tokens == 0


def test_structured_outputs_hold_an_answer_to_texts_schemas_and_patterns(client: openai.OpenAI) -> None:
    def held_to(outputs: dict[str, Any]) -> str:
        answer = ask(client, extra_body={"structured_outputs": outputs})
        return answer.choices[0].message.content or ""

    assert held_to({"choice": ["billing"]}) == "billing"
    assert held_to({"regex": "a/b{3}"}) == "a/bbb"
    assert json.loads(held_to({"json": {"const": {"a": 1}}})) == {"a": 1}


def test_bias_and_penalties_move_what_is_said(client: openai.OpenAI) -> None:
    tokens = ask(client, logprobs=True, top_logprobs=2).choices[0].logprobs
    assert tokens
    assert tokens.content
    plain = continued(client, "x", max_tokens=4, temperature=0)
    assert plain == '""""'
    assert len(set(continued(client, "x", max_tokens=4, temperature=0, presence_penalty=2))) == 4
    assert len(set(continued(client, "x", max_tokens=4, temperature=0, frequency_penalty=1))) == 4
    assert continued(client, "x", max_tokens=1, temperature=0, logit_bias={5: 100}) != '"'


def continued(client: openai.OpenAI, prompt: Any, **more: Any) -> str:
    answer: Completion = client.completions.create(model="scripted", prompt=prompt, **more)
    return "".join(choice.text for choice in answer.choices)


def test_an_answer_without_a_limit_goes_on_to_the_end_of_the_context(client: openai.OpenAI) -> None:
    talk: list[Any] = [{"role": "user", "content": "x" * 1_400}]
    answer = ask(client, talk, logit_bias={2: -100})  # it can't end its turn
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage
    assert answer.usage.total_tokens == 2048
    assert answer.usage.completion_tokens > 512


def test_text_is_continued_as_it_stands(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="scripted", prompt="<|plain|>", logprobs=2)
    assert answer.choices[0].text == "Good morning."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs
    assert answer.choices[0].logprobs.tokens == ["Good", " morning", "."]
    assert answer.choices[0].logprobs.text_offset == [0, 4, 12]
    Completion.model_validate(answer.to_dict())
    chunks = client.completions.create(model="scripted", prompt="<|plain|>", logprobs=2, stream=True)
    offsets = [
        choice.logprobs.text_offset or [] for chunk in chunks for choice in chunk.choices if choice.logprobs
    ]
    assert [offset for piece in offsets for offset in piece] == [0, 4, 12]


def test_several_texts_are_continued_in_their_order(client: openai.OpenAI) -> None:
    prompts = ["<|plain|>", "<|told|>"]
    answer = client.completions.create(model="scripted", prompt=prompts, n=2)
    told = ["Good morning."] * 2 + ["It is sunny in Paris."] * 2
    assert [choice.text for choice in answer.choices] == told
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 10)
    streamed = ["", "", "", ""]
    for chunk in client.completions.create(model="scripted", prompt=prompts, n=2, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == told


def test_token_ids_are_continued_and_ones_that_do_not_exist_are_refused(client: openai.OpenAI) -> None:
    assert len(continued(client, [10, 11], max_tokens=2)) >= 2
    for prompt in ([99_999], "", [], [[]], ["a", ""]):
        with pytest.raises(openai.BadRequestError) as caught:
            continued(client, prompt)
        assert caught.value.param == "prompt"
    with pytest.raises(openai.BadRequestError, match="ask for 258 answers; the limit is 256"):
        continued(client, ["a"] * 129, n=2)  # a 503 would be asked again for ever


def checked(response: Response) -> Response:
    """Against the SDK's own types, which it doesn't do itself."""
    return Response.model_validate(response.to_dict())


def test_responses_answer_in_text(client: openai.OpenAI) -> None:
    asked = client.responses.create(model="scripted", instructions="Be short.", input="Hello")
    response = checked(asked)
    assert response.output_text == "Good morning."
    assert response.status == "completed"
    assert response.usage
    assert response.usage.output_tokens == 3
    assert response.reasoning
    assert response.reasoning.effort == "none"


def test_responses_call_a_tool_and_go_on_with_what_came_back(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", **WEATHER["function"], "strict": False}
    given: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]}]
    first = checked(client.responses.create(model="scripted", input=given, tools=[tool]))
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("get_weather", AS_TEXT)
    given += [item.to_dict() for item in first.output]
    given.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    second = client.responses.create(model="scripted", input=given, tools=[tool])
    assert second.output_text == "It is sunny in Paris."
    named: Any = {"type": "function", "name": "get_weather"}
    (forced,) = client.responses.create(model="scripted", input="x", tools=[tool], tool_choice=named).output
    assert forced.type == "function_call"


def test_responses_are_parsed_into_what_was_asked_for(client: openai.OpenAI) -> None:
    class Verdict(BaseModel):
        level: int

    parsed = client.responses.parse(model="scripted", input="Sort it.", text_format=Verdict)
    assert isinstance(parsed.output_parsed, Verdict)


def test_a_stream_of_a_response_tells_its_events_in_order(client: openai.OpenAI) -> None:
    with client.responses.stream(model="scripted", input="Hello") as stream:
        events = list(stream)
        final = checked(stream.get_final_response())
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta",) * 3,
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == "Good morning."


def test_a_stream_of_a_response_tells_a_call(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", **WEATHER["function"], "strict": False}
    with client.responses.stream(model="scripted", input="Weather?", tools=[tool]) as stream:
        kinds = [event.type for event in stream]
        (call,) = stream.get_final_response().output
    assert call.type == "function_call"
    assert call.arguments == AS_TEXT
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 1
    assert "response.function_call_arguments.delta" in kinds


def test_a_response_that_is_cut_off_is_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(model="scripted", input="Hello", max_output_tokens=1)
    assert response.status == "incomplete"
    assert response.incomplete_details
    assert response.incomplete_details.reason == "max_output_tokens"
    with client.responses.stream(model="scripted", input="Hello", max_output_tokens=1) as stream:
        assert [event.type for event in stream][-1] == "response.incomplete"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": []}, "input"),
        ({"include": 5}, "include"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"not": {}}}}},
            "text.format.schema",
        ),
    ],
)
def test_what_a_response_cannot_take_is_refused_by_its_own_name(
    client: openai.OpenAI, more: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "scripted", "input": "Hello", **more})
    assert caught.value.param == param
    assert f"'{param}'" in str(caught.value)
