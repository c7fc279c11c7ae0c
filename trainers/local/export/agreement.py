"""Compares our server's greedy answers with those of an export that was loaded again.

Weights that are stored with fewer bits move every logit a little, so that two tokens which were all but equally likely
can change places. An answer that departs from our server's at such a near tie is accepted, and counted."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from trainers.local.api_errors import ApiError
from trainers.local.export.order import PreparedExport, Say
from trainers.local.export.output import AnswersDiffer, ExportRefused
from trainers.local.export.sources import Question
from trainers.local.export.weights import Loaded
from trainers.local.serving.generator import Generator
from trainers.local.serving.values import AnswerEnd, Outcome, Piece, Request, Sampling, Target, Tools
from trainers.local.serving.vocabulary import Vocabulary

MAX_TOKENS = 48
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=MAX_TOKENS, stop=(), seed=None)
PATIENCE_S = 3600.0
Agreement = Literal["same", "near tie", "different"]


@dataclass(frozen=True)
class ModelAnswer:
    """An answer as text and as tokens. `near` has for each step the tokens within the tolerance of the likeliest."""

    text: str
    near: Sequence[Sequence[int]]
    tokens: Sequence[int]


@dataclass(frozen=True)
class Comparison:
    """`tolerance` is how many logits below the likeliest token another may lie for a near tie."""

    rows: int
    near_ties: int
    tolerance: float

    def __str__(self) -> str:
        if not self.near_ties:
            return f"{self.rows} of {self.rows} answers are the same, letter by letter"
        same = f"{self.rows - self.near_ties} of {self.rows} answers are the same, letter by letter"
        return f"{same}; {self.near_ties} part where two tokens were within {self.tolerance:g} logits of each other"


def encode(tokenizer: Any, question: Question) -> list[int]:
    """Writes a chat as our server does: token ids up to where the answer begins. Raises ExportRefused."""
    vocabulary = Vocabulary(tokenizer, frozenset(), len(tokenizer))
    request = Request(
        Target("", None),
        question.messages,
        GREEDY,
        streams=False,
        emit=lambda outcome: None,
        tools=Tools(question.tools),
    )
    try:
        return vocabulary.encode(request)
    except ApiError as problem:
        raise ExportRefused(f"A question to compare the export with: {problem.message}") from problem


def served_answers(target: Target, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Answers by the very code that serves chat. A tool call is the text that the model writes. Raises
    ExportRefused."""
    generator = Generator()
    boxes: list[queue.SimpleQueue[Outcome]] = [queue.SimpleQueue() for _ in prompts]
    try:
        for prompt, box in zip(prompts, boxes, strict=True):
            generator.submit(Request(target, (), GREEDY, streams=False, emit=box.put, prompt=prompt))
        return [_read_answer(box) for box in boxes]
    finally:
        generator.stop()


def _read_answer(box: queue.SimpleQueue[Outcome]) -> str:
    text = ""
    while True:
        outcome = box.get(timeout=PATIENCE_S)
        if isinstance(outcome, ApiError):
            raise ExportRefused(
                f"Asking the tuned model itself, to compare the export with: {outcome.message}"
            )
        if isinstance(outcome, AnswerEnd):
            return text
        assert isinstance(outcome, Piece)  # noqa: S101
        text += outcome.text


def compare_answers(work: PreparedExport, loaded: Loaded, tolerance: float, say: Say) -> str:
    """Asks the model that was written and loaded again, and returns a sentence about its answers. Raises
    AnswersDiffer."""
    say("Asking what was written, loaded again, the same questions")
    comparison = compare(loaded, work.prompts, work.answers, tolerance)
    return f"loaded again in float32 and asked what our server was asked: {comparison}"


def compare(
    loaded: Loaded, prompts: Sequence[Sequence[int]], answers: Sequence[str], tolerance: float
) -> Comparison:
    """Asks `loaded` the same questions; `answers` are our server's. Raises AnswersDiffer at the first that differs."""
    ties = 0
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), start=1):
        exported = ask(loaded.model, loaded.tokenizer, loaded.end_tokens, prompt, tolerance)
        result = agreement(answer, exported, loaded.tokenizer, loaded.end_tokens)
        if result == "different":
            raise AnswersDiffer(
                f"Question {number} of {len(prompts)}: the tuned model answers {answer[:80]!r}, the export "
                f"{exported.text[:80]!r}, and it is no near tie (within {tolerance:g} logits). Nothing was kept. "
                "Merged and GGUF exports keep more with --dtype float16 or float32; --to vllm changes no weights."
            )
        ties += result == "near tie"
    return Comparison(len(prompts), ties, tolerance)


@torch.inference_mode()
def ask(
    model: Any, tokenizer: Any, end_tokens: Sequence[int], prompt: Sequence[int], tolerance: float
) -> ModelAnswer:
    """Answers greedily by transformers' own generate."""
    ids = torch.tensor([list(prompt)], device=model.device)
    result = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=MAX_TOKENS,
        do_sample=False,
        eos_token_id=list(end_tokens),
        pad_token_id=end_tokens[0],
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = result.sequences[0, ids.shape[1] :].tolist()
    near = [(step[0] >= step[0].max() - tolerance).nonzero().flatten().tolist() for step in result.logits]
    return ModelAnswer(decode(tokenizer, tokens), near, tokens)


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def agreement(answer: str, exported: ModelAnswer, tokenizer: Any, end_tokens: Sequence[int]) -> Agreement:
    """`answer` is our server's."""

    def begins_with(tokens: Sequence[int]) -> bool:
        """Ignores a last character of which the tokens hold only a part."""
        return answer.startswith(decode(tokenizer, tokens).rstrip("\ufffd"))

    if answer == exported.text:
        return "same"
    for step, near in enumerate(exported.near):
        before, token = exported.tokens[:step], exported.tokens[step]
        if begins_with([*before, token]) and token not in end_tokens:
            continue
        # Here the two part. Would one of the tokens that were nearly as likely have led to our server's answer?
        others = [other for other in near if other != token]
        ends_here = any(other in end_tokens for other in others) and decode(tokenizer, before) == answer
        is_tie = ends_here or any(begins_with([*before, other]) for other in others)
        return "near tie" if is_tie else "different"
    return "different"
