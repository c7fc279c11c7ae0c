"""Do two models answer the same? Our server's greedy answers beside those of an export that was loaded again.

Weights that are stored with fewer bits move every logit a little, so that two tokens which were all but equally
likely can change places. An answer that parts from ours at such a near tie counts as the same, and is counted."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from trainers.local.api_errors import ApiError
from trainers.local.export.output import AnswersDiffer, ExportRefused
from trainers.local.export.sources import Question
from trainers.local.serving.generator import Generator
from trainers.local.serving.values import Answered, Outcome, Piece, Request, Sampling, Target, Tools
from trainers.local.serving.vocabulary import Vocabulary

MAX_TOKENS = 48
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=MAX_TOKENS, stop=(), seed=None)
PATIENCE_S = 3600.0
Agreement = Literal["same", "near tie", "different"]


@dataclass(frozen=True)
class ModelAnswer:
    """An answer's text, and at each step the tokens within the tolerance of the likeliest. `ends`: may end there."""

    text: str
    near: Sequence[Sequence[int]]
    tokens: Sequence[int]


@dataclass(frozen=True)
class Checked:
    """`tolerance` in logits: how far below the likeliest token one may lie and still be a near tie."""

    rows: int
    near_ties: int
    tolerance: float

    def __str__(self) -> str:
        if not self.near_ties:
            return f"{self.rows} of {self.rows} answers are the same, letter by letter"
        same = f"{self.rows - self.near_ties} of {self.rows} answers are the same, letter by letter"
        return f"{same}; {self.near_ties} part where two tokens were within {self.tolerance:g} logits of each other"


def encode(tokenizer: Any, question: Question) -> list[int]:
    """As our server writes a chat: token ids up to where the answer begins. Raises ExportRefused."""
    vocabulary = Vocabulary(tokenizer, frozenset(), len(tokenizer))
    tools = Tools(question.tools)
    request = Request(Target("", None), question.messages, GREEDY, streams=False, emit=_nobody, tools=tools)
    try:
        return vocabulary.encode(request)
    except ApiError as problem:
        raise ExportRefused(f"A question to compare the export with: {problem.message}") from problem


def _nobody(outcome: Outcome) -> None:
    pass


def served_answers(target: Target, prompts: Sequence[Sequence[int]]) -> list[str]:
    """What our server answers, by the very code that serves chat; a call as the text that the model writes. Raises
    ExportRefused."""
    generator = Generator()
    boxes: list[queue.SimpleQueue[Outcome]] = [queue.SimpleQueue() for _ in prompts]
    try:
        for prompt, box in zip(prompts, boxes, strict=True):
            generator.submit(Request(target, (), GREEDY, streams=False, emit=box.put, prompt=prompt))
        return [_text(box) for box in boxes]
    finally:
        generator.stop()


def _text(box: queue.SimpleQueue[Outcome]) -> str:
    text = ""
    while True:
        outcome = box.get(timeout=PATIENCE_S)
        if isinstance(outcome, ApiError):
            raise ExportRefused(
                f"Asking the tuned model itself, to compare the export with: {outcome.message}"
            )
        if isinstance(outcome, Answered):
            return text
        assert isinstance(outcome, Piece)  # noqa: S101
        text += outcome.text


def compare(
    model: Any,
    tokenizer: Any,
    end_tokens: Sequence[int],
    prompts: Sequence[Sequence[int]],
    ours: Sequence[str],
    tolerance: float,
) -> Checked:
    """Ask `model` the same questions. Raises AnswersDiffer with the first row that differs."""
    ties = 0
    for number, (prompt, our) in enumerate(zip(prompts, ours, strict=True), start=1):
        theirs = ask(model, tokenizer, end_tokens, prompt, tolerance)
        result = agreement(our, theirs, tokenizer, end_tokens)
        if result == "different":
            raise AnswersDiffer(
                f"Question {number} of {len(prompts)}: the tuned model answers {our[:80]!r}, the export "
                f"{theirs.text[:80]!r}, and it is no near tie (within {tolerance:g} logits). Nothing was kept. "
                "Merged and GGUF exports keep more with --dtype float16 or float32; --to vllm changes no weights."
            )
        ties += result == "near tie"
    return Checked(len(prompts), ties, tolerance)


@torch.inference_mode()
def ask(
    model: Any, tokenizer: Any, end_tokens: Sequence[int], prompt: Sequence[int], tolerance: float
) -> ModelAnswer:
    """Greedily, by transformers' own generate."""
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


def agreement(our: str, theirs: ModelAnswer, tokenizer: Any, end_tokens: Sequence[int]) -> Agreement:
    if our == theirs.text:
        return "same"
    for step, near in enumerate(theirs.near):
        before, after = theirs.tokens[:step], theirs.tokens[: step + 1]
        if _leads_to(our, decode(tokenizer, after)) and theirs.tokens[step] not in end_tokens:
            continue
        others = [token for token in near if token != theirs.tokens[step]]
        ends = any(token in end_tokens for token in others) and decode(tokenizer, before) == our
        if ends or any(_leads_to(our, decode(tokenizer, [*before, token])) for token in others):
            return "near tie"
        return "different"
    return "different"


def _leads_to(text: str, beginning: str) -> bool:
    """A last character that is cut in half counts as what it will become."""
    return text.startswith(beginning.rstrip("\ufffd"))
