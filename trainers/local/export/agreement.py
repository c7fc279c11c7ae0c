"""Compares our server's greedy answers with those of an export, loaded from disk.

Weights stored with fewer bits change every logit a little, so that two tokens of nearly equal probability can swap
places. An answer that differs from our server's at such a near tie is accepted, and counted."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from trainers.export_folder import AnswersDiffer, ExportRefused
from trainers.http.errors import ApiError
from trainers.local.export.order import PreparedExport, Say
from trainers.local.export.sources import Question
from trainers.local.export.weights import LoadedModel
from trainers.local.serving.generator import Generator
from trainers.local.serving.values import AnswerEnd, Outcome, Piece, Request, Sampling, Target, Tools
from trainers.local.serving.vocabulary import Vocabulary

MAX_TOKENS = 48
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=MAX_TOKENS, stop=(), seed=None)
PATIENCE_S = 3600.0
Agreement = Literal["same", "near tie", "different"]


@dataclass(frozen=True)
class ModelAnswer:
    """An answer as text and as tokens. `near` has, for each step, the tokens within the tolerance of the likeliest."""

    text: str
    near: Sequence[Sequence[int]]
    tokens: Sequence[int]


@dataclass(frozen=True)
class Comparison:
    """`tolerance` is the largest difference in logits to the likeliest token that counts as a near tie."""

    rows: int
    near_ties: int
    tolerance: float

    def __str__(self) -> str:
        if not self.near_ties:
            return f"{self.rows} of {self.rows} answers are the same, letter by letter"
        same = self.rows - self.near_ties
        tie = f"a near tie on (two tokens within {self.tolerance:g} logits)"
        return f"{same} of {self.rows} answers are the same, letter by letter; {self.near_ties} differ from {tie}"


def encode(tokenizer: Any, question: Question) -> list[int]:
    """Returns a chat as token ids up to where the answer begins, encoded as by our server. Raises ExportRefused."""
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
        raise ExportRefused(f"Preparing a question to check the export with: {problem.message}") from problem


def served_answers(target: Target, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Returns our server's answers, by the same code that serves chats. Tool calls are the text that the model writes.
    Raises ExportRefused."""
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
            raise ExportRefused(f"Asking the tuned model itself, to check the export with: {outcome.message}")
        if isinstance(outcome, AnswerEnd):
            return text
        assert isinstance(outcome, Piece)  # noqa: S101
        text += outcome.text


def compare_answers(prepared: PreparedExport, loaded: LoadedModel, tolerance: float, say: Say) -> str:
    """Asks the exported model, loaded from disk, and returns a phrase about its answers. Raises AnswersDiffer."""
    say("Loading the export and asking it the same questions")
    comparison = compare(loaded, prepared.prompts, prepared.answers, tolerance)
    return f"loaded in float32 and asked the questions that our server was asked: {comparison}"


def compare(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], answers: Sequence[str], tolerance: float
) -> Comparison:
    """Asks `loaded` the same questions; `answers` are our server's. Raises AnswersDiffer at the first that differs."""
    near_ties = 0
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), start=1):
        exported = ask(loaded.model, loaded.tokenizer, loaded.end_tokens, prompt, tolerance)
        result = judge_answer(answer, exported, loaded.tokenizer, loaded.end_tokens)
        if result == "different":
            raise AnswersDiffer(
                f"Question {number} of {len(prompts)}: the tuned model answers {answer[:80]!r}, but the export "
                f"{exported.text[:80]!r}, which is not a near tie (within {tolerance:g} logits). The export was "
                "deleted. Merged and GGUF exports are more exact with --dtype float16 or float32; --to vllm changes no "
                "weights."
            )
        if result == "near tie":
            near_ties += 1
    return Comparison(len(prompts), near_ties, tolerance)


@torch.inference_mode()
def ask(
    model: Any, tokenizer: Any, end_tokens: Sequence[int], prompt: Sequence[int], tolerance: float
) -> ModelAnswer:
    """Returns the greedy answer of transformers' own generate."""
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


def judge_answer(answer: str, exported: ModelAnswer, tokenizer: Any, end_tokens: Sequence[int]) -> Agreement:
    """Compares our server's `answer` with the exported model's."""

    def begins_with(tokens: Sequence[int]) -> bool:
        """Ignores a last character if the tokens have only a part of its bytes."""
        return answer.startswith(decode(tokenizer, tokens).rstrip("\ufffd"))

    if answer == exported.text:
        return "same"
    for step, near in enumerate(exported.near):
        before = exported.tokens[:step]
        token = exported.tokens[step]
        if begins_with([*before, token]) and token not in end_tokens:
            continue
        # Here the two answers diverge. Would a token that was nearly as likely have led to our server's answer?
        others = [other for other in near if other != token]
        could_end = any(other in end_tokens for other in others)
        if could_end and decode(tokenizer, before) == answer:
            return "near tie"
        if any(begins_with([*before, other]) for other in others):
            return "near tie"
        return "different"
    return "different"
