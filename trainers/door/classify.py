"""POST /v1/classify, an endpoint that only the door has: the label of one text or of several, from whatever is in use
for labels. Probabilities come from free candidates, and only if they were calibrated."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.responses import JSONResponse, Response

from trainers.door import chat, chat_answers
from trainers.door.calls import Body, Call
from trainers.door.counts import usage_of
from trainers.evaluation.scores import read_label
from trainers.http.errors import invalid
from trainers.recipes.usage import Usage

MOST_FREE = 1_000
MOST_ASKED = 100
AT_ONCE = 8  # questions to a model


async def answer_classification(call: Call) -> Response:
    """Raises ApiError and VendorError. If a model fails to answer one text, nothing is answered."""
    texts = _read_texts(call.body)
    if not call.recipe.labels:
        text = f"{call.name} doesn't answer with one of some labels. Call it by /v1/chat/completions."
        raise invalid(text, "model", "no_labels")
    most = MOST_ASKED
    if call.recipe.is_free:
        most = MOST_FREE
    if len(texts) > most:
        raise invalid(f"'input' has {len(texts)} texts; at most {most} are allowed.", "input")
    if call.recipe.is_free:
        results = await _read_labels(call, texts)
        usages = [Usage(calls=1)] * len(texts)
        call.count(sum(usages, Usage()))
    else:
        pairs = await _ask_for_labels(call, texts)
        results = [result for result, _ in pairs]
        usages = [usage for _, usage in pairs]
    _sample(call, texts, results, usages)
    usage = sum(usages, Usage())
    return JSONResponse(_body(call.name, results, usage))


def _body(name: str, results: Sequence[Body], usage: Usage) -> Body:
    return {
        "object": "list",
        "model": name,
        "data": [{"index": number, **result} for number, result in enumerate(results)],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }


def _read_texts(body: Body) -> list[str]:
    texts = body.get("input")
    if isinstance(texts, str):
        texts = [texts]
    are_texts = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    if not texts or not are_texts:
        raise invalid("'input' must be a text, or a list with at least one.", "input", "invalid_type")
    return texts


async def _read_labels(call: Call, texts: list[str]) -> list[Body]:
    answers = await call.loaded.answer(texts)
    results: list[Body] = []
    for answer in answers:
        shares = None
        if answer.probabilities is not None:
            shares = dict(answer.probabilities)
        results.append({"label": answer.text, "probabilities": shares})
    return results


def _sample(call: Call, texts: Sequence[str], results: Sequence[Body], usages: Sequence[Usage]) -> None:
    """Has the labels stored that are drawn, each as the answer to a chat."""
    for number, (text, result, usage) in enumerate(zip(texts, results, usages, strict=True)):
        if not call.is_drawn():
            continue
        label = result["label"] or result["answer"]
        number_of_several = None
        if len(texts) > 1:
            number_of_several = number
        call.sample_label(text, label, usage, number_of_several)


async def _ask_for_labels(call: Call, texts: list[str]) -> list[tuple[Body, Usage]]:
    turns = asyncio.Semaphore(AT_ONCE)

    async def ask(text: str) -> tuple[Body, Usage]:
        async with turns:
            return await _ask_for_label(call, text)

    tasks = [asyncio.ensure_future(ask(text)) for text in texts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()  # those that wait, if another failed


async def _ask_for_label(call: Call, text: str) -> tuple[Body, Usage]:
    question = {"role": "user", "content": text}
    answer, _ = await chat.ask(call, {"messages": [question]})
    content = chat_answers.read_object(answer)
    usage = usage_of(content.get("usage"))
    call.count(usage)
    choice = chat_answers.read_choice(content)
    words = chat_answers.read_text(choice["message"])
    label = read_label(words, call.recipe.labels)
    if label is None:  # so that the program's author sees why
        return {"label": None, "probabilities": None, "answer": words}, usage
    return {"label": label, "probabilities": None}, usage
