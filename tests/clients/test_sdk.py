"""Tools, the responses API and text completions with OpenAI's own SDK; chats are checked against its description."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel

from tests.local.trainer_server import check_chunk

QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
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


def ask(client: openai.OpenAI, messages: list[Any] = QUESTION, **more: Any) -> ChatCompletion:
    answer: ChatCompletion = client.chat.completions.create(model="scripted", messages=messages, **more)
    return answer


def read_call(answer: ChatCompletion) -> tuple[str, dict[str, Any]]:
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    return call.function.name, json.loads(call.function.arguments)


def test_a_model_calls_a_tool_and_answers_with_its_result(client: openai.OpenAI) -> None:
    first = ask(client, tools=[WEATHER, SORT])
    assert first.choices[0].message.content is None
    assert read_call(first) == ("get_weather", {"city": "Paris"})
    (call,) = first.choices[0].message.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    second = ask(client, [*QUESTION, first.choices[0].message, result], tools=[WEATHER, SORT])
    assert second.choices[0].message.content == "It is sunny in Paris."
    assert second.choices[0].finish_reason == "stop"


def test_a_streamed_call_has_its_index_and_no_text(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="scripted", messages=QUESTION, tools=[WEATHER], stream=True)
    chunks = [chunk for chunk in stream if check_chunk(chunk.to_dict()) is None]
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.index, call.function.name) for call in calls if call.function] == [(0, "get_weather")]
    assert calls[0].function
    assert calls[0].function.arguments == AS_TEXT
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ""
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_text_is_streamed_although_tools_are_given(client: openai.OpenAI) -> None:
    messages = [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [weather_call("a")]}]
    messages.append({"role": "tool", "tool_call_id": "a", "content": "sunny"})
    stream = client.chat.completions.create(model="scripted", messages=messages, tools=[WEATHER], stream=True)
    parts = [chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content]
    assert parts == ["It is sunny", " in Paris."]


def weather_call(call_id: str, arguments: str = AS_TEXT) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def test_a_named_tool_is_called_with_arguments_that_fit_its_schema(client: openai.OpenAI) -> None:
    named = {"type": "function", "function": {"name": "sort_ticket"}}
    name, arguments = read_call(ask(client, tools=[WEATHER, SORT], tool_choice=named))
    assert name == "sort_ticket"
    assert arguments["label"] in ("billing", "login")
    assert isinstance(arguments["level"], int)


def test_a_tool_is_called_if_one_is_required(client: openai.OpenAI) -> None:
    messages = [*QUESTION, {"role": "assistant", "content": "", "tool_calls": [weather_call("a")]}]
    messages.append(
        {"role": "tool", "tool_call_id": "a", "content": "sunny"}
    )  # without `required` it would answer in words
    name, _ = read_call(ask(client, messages, tools=[WEATHER, SORT], tool_choice="required"))
    assert name in ("get_weather", "sort_ticket")


def test_no_tool_is_called_with_tool_choice_none(client: openai.OpenAI) -> None:
    answer = ask(client, tools=[WEATHER], tool_choice="none")
    assert answer.choices[0].message.content == "Good morning."
    assert answer.choices[0].message.tool_calls is None


def test_with_a_format_the_answer_has_that_format_or_is_a_call(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["sunny", "rainy"]}}}
    choices = [ask(client, tools=[WEATHER], response_format=form, seed=seed).choices[0] for seed in range(6)]
    texts = {choice.message.content for choice in choices if choice.finish_reason == "stop"}
    assert texts <= {'"sunny"', '"rainy"'}
    assert all(choice.message.tool_calls for choice in choices if choice.finish_reason == "tool_calls")


def test_several_answers_have_distinct_call_ids(client: openai.OpenAI) -> None:
    answer = ask(client, tools=[WEATHER], n=3)
    ids = [call.id for choice in answer.choices for call in choice.message.tool_calls or []]
    assert len(set(ids)) == 3
    assert all(
        len(call_id) == 9 and call_id.isalnum() for call_id in ids
    )  # Mistral's templates refuse others


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
            {"messages": [*QUESTION, {"role": "assistant", "tool_calls": [weather_call("a", "no JSON")]}]},
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
def test_a_wrong_parameter_is_refused_by_its_name(
    client: openai.OpenAI, more: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **more)
    assert caught.value.param == param
    assert f"'{param}'" in str(caught.value)


def test_a_conversation_is_refused_with_advice_to_send_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="send the conversation in full as 'input'"):
        client.responses.create(model="scripted", input="Hello", conversation="conv_1")


def test_a_response_is_continued_read_and_deleted_by_its_id(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", **WEATHER["function"], "strict": False}
    first = validate(client.responses.create(model="scripted", input="Weather in Paris?", tools=[tool]))
    (call,) = first.output
    assert call.type == "function_call"
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = client.responses.create(
        model="scripted", input=[result], previous_response_id=first.id, tools=[tool]
    )
    assert second.output_text == "It is sunny in Paris."
    assert second.previous_response_id == first.id
    assert second.to_dict()["store"] is True
    assert client.responses.retrieve(first.id).output == first.output
    client.responses.delete(first.id)
    for gone in (
        lambda: client.responses.retrieve(first.id),
        lambda: client.responses.delete(first.id),
    ):
        with pytest.raises(openai.NotFoundError, match="not found"):
            gone()
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="scripted", input="And?", previous_response_id=first.id)
    assert (caught.value.code, caught.value.param) == (
        "previous_response_not_found",
        "previous_response_id",
    )
    assert client.responses.retrieve(second.id).output_text == "It is sunny in Paris."


def test_a_streamed_response_can_be_continued_unless_it_is_not_stored(client: openai.OpenAI) -> None:
    with client.responses.stream(model="scripted", input="Hello") as stream:
        stored = stream.get_final_response()
    more = client.responses.create(model="scripted", input="Hello", previous_response_id=stored.id)
    assert more.usage is not None and stored.usage is not None
    assert more.usage.input_tokens > stored.usage.input_tokens + stored.usage.output_tokens
    unstored = client.responses.create(model="scripted", input="Hello", store=False)
    assert unstored.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unstored.id)


def test_a_schema_that_cannot_be_enforced_is_refused_for_strict_tools_only(
    client: openai.OpenAI,
) -> None:
    tags = {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True, "maxItems": 2}
    schema = {"type": "object", "properties": {"tags": tags}, "required": ["tags"]}
    function = {"name": "tag", "parameters": schema}
    answer = ask(client, tools=[{"type": "function", "function": function}], tool_choice="required")
    assert set(read_call(answer)[1]["tags"]) <= {"a", "b"}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, tools=[{"type": "function", "function": {**function, "strict": True}}])
    assert "uniqueItems" in str(caught.value)


def test_a_refusal_may_be_sent_back_in_the_conversation(client: openai.OpenAI) -> None:
    refused = {"role": "assistant", "content": None, "refusal": "I can't say."}
    assert ask(client, [*QUESTION, refused, *QUESTION]).choices[0].message.content == "Good morning."


def test_reasoning_effort_is_accepted_and_costs_no_tokens(client: openai.OpenAI) -> None:
    usage = ask(client, reasoning_effort="high").usage
    assert usage
    assert usage.completion_tokens_details
    assert usage.completion_tokens_details.reasoning_tokens == 0


def test_structured_outputs_accept_choices_schemas_and_patterns(client: openai.OpenAI) -> None:
    def answer_with(outputs: dict[str, Any]) -> str:
        answer = ask(client, extra_body={"structured_outputs": outputs})
        return answer.choices[0].message.content or ""

    assert answer_with({"choice": ["billing"]}) == "billing"
    assert answer_with({"regex": "a/b{3}"}) == "a/bbb"
    assert json.loads(answer_with({"json": {"const": {"a": 1}}})) == {"a": 1}


def test_bias_and_penalties_change_the_answer(client: openai.OpenAI) -> None:
    tokens = ask(client, logprobs=True, top_logprobs=2).choices[0].logprobs
    assert tokens
    assert tokens.content
    plain = complete(client, "x", max_tokens=4, temperature=0)
    assert plain == '""""'
    assert len(set(complete(client, "x", max_tokens=4, temperature=0, presence_penalty=2))) == 4
    assert len(set(complete(client, "x", max_tokens=4, temperature=0, frequency_penalty=1))) == 4
    assert complete(client, "x", max_tokens=1, temperature=0, logit_bias={5: 100}) != '"'


def complete(client: openai.OpenAI, prompt: Any, **more: Any) -> str:
    answer: Completion = client.completions.create(model="scripted", prompt=prompt, **more)
    return "".join(choice.text for choice in answer.choices)


def test_an_answer_without_a_limit_continues_to_the_end_of_the_context(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "x" * 1_480}]
    answer = ask(client, messages, logit_bias={2: -100})  # it can't end its turn
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage
    assert answer.usage.total_tokens == 2048
    assert answer.usage.completion_tokens > 512


def test_a_text_is_completed(client: openai.OpenAI) -> None:
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


def test_several_texts_are_completed_in_order(client: openai.OpenAI) -> None:
    prompts = ["<|plain|>", "<|told|>"]
    answer = client.completions.create(model="scripted", prompt=prompts, n=2)
    expected = ["Good morning."] * 2 + ["It is sunny in Paris."] * 2
    assert [choice.text for choice in answer.choices] == expected
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 10)
    streamed = ["", "", "", ""]
    for chunk in client.completions.create(model="scripted", prompt=prompts, n=2, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == expected


def test_token_ids_are_completed_and_unknown_ones_refused(client: openai.OpenAI) -> None:
    assert len(complete(client, [10, 11], max_tokens=2)) >= 2
    for prompt in ([99_999], "", [], [[]], ["a", ""]):
        with pytest.raises(openai.BadRequestError) as caught:
            complete(client, prompt)
        assert caught.value.param == "prompt"
    with pytest.raises(openai.BadRequestError, match="ask for 258 answers; the limit is 256"):
        complete(client, ["a"] * 129, n=2)  # a client would repeat a 503 forever


def validate(response: Response) -> Response:
    """Checks a response against the SDK's own types, which the SDK doesn't do."""
    return Response.model_validate(response.to_dict())


def test_responses_answer_in_text(client: openai.OpenAI) -> None:
    response = validate(client.responses.create(model="scripted", instructions="Be short.", input="Hello"))
    assert response.output_text == "Good morning."
    assert response.status == "completed"
    assert response.usage
    assert response.usage.output_tokens == 3
    assert response.reasoning
    assert response.reasoning.effort == "none"


def test_responses_call_a_tool_and_continue_with_its_result(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", **WEATHER["function"], "strict": False}
    items: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]}]
    first = validate(client.responses.create(model="scripted", input=items, tools=[tool]))
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("get_weather", AS_TEXT)
    items += [item.to_dict() for item in first.output]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    second = client.responses.create(model="scripted", input=items, tools=[tool])
    assert second.output_text == "It is sunny in Paris."
    named: Any = {"type": "function", "name": "get_weather"}
    (forced,) = client.responses.create(model="scripted", input="x", tools=[tool], tool_choice=named).output
    assert forced.type == "function_call"


def test_responses_are_parsed_into_a_given_class(client: openai.OpenAI) -> None:
    class Verdict(BaseModel):
        level: int

    parsed = client.responses.parse(model="scripted", input="Sort it.", text_format=Verdict)
    assert isinstance(parsed.output_parsed, Verdict)


def test_a_streamed_response_has_its_events_in_order(client: openai.OpenAI) -> None:
    with client.responses.stream(model="scripted", input="Hello") as stream:
        events = list(stream)
        final = validate(stream.get_final_response())
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta",) * 3,
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == "Good morning."


def test_a_streamed_response_has_the_events_of_a_call(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", **WEATHER["function"], "strict": False}
    with client.responses.stream(model="scripted", input="Weather?", tools=[tool]) as stream:
        kinds = [event.type for event in stream]
        (call,) = stream.get_final_response().output
    assert call.type == "function_call"
    assert call.arguments == AS_TEXT
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 1
    assert "response.function_call_arguments.delta" in kinds


def test_a_truncated_response_is_incomplete(client: openai.OpenAI) -> None:
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
def test_a_wrong_parameter_of_a_response_is_refused_by_its_name(
    client: openai.OpenAI, more: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "scripted", "input": "Hello", **more})
    assert caught.value.param == param
    assert f"'{param}'" in str(caught.value)
