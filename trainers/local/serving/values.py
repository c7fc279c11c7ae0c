"""What is asked of the generator and what it answers. No torch, no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from trainers.local.api_errors import ApiError, missing
from trainers.local.tool_calls import ToolCall
from trainers.methods import Quantization

MAX_ADAPTERS = 8  # in memory, and so in one batch
Ids = tuple[int, ...]
Weights = tuple[str, Quantization]


@dataclass(frozen=True)
class ChatMessage:
    """`calls` by their ids, in an assistant's message; `call_id` and `name` say what a tool's message answers."""

    role: str
    content: str
    calls: Mapping[str, ToolCall] = field(default_factory=dict)
    call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Tools:
    """What a model may call: `definitions` as OpenAI writes them, which is how chat templates take them. One of
    `required` must be called; where it is empty the model decides."""

    definitions: Sequence[Mapping[str, Any]] = ()
    required: Sequence[str] = ()


@dataclass(frozen=True)
class Sampling:
    """`max_tokens` None: as far as the context goes. Greedy below a temperature of 0.001. The answer ends before a
    `stop`. Penalties and `logit_bias` (by token id) are OpenAI's: taken from, and added to, a token's logit.

    `n` answers to the same prompt, the second with the seed after the first's. `top_logprobs`: how many other
    tokens are named at each place, None for no log-probabilities at all. `grammar` as constraints.py writes it.
    """

    temperature: float
    top_p: float
    max_tokens: int | None
    stop: tuple[str, ...]
    seed: int | None
    n: int = 1
    top_logprobs: int | None = None
    grammar: str | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """A base model (local folder or hub id), the folder of an adapter over it, and the format of the base's weights
    that the adapter was trained on."""

    base: str
    adapter: Path | None
    quantization: Quantization = "none"

    @property
    def weights(self) -> Weights:
        """What is loaded once for all adapters over it."""
        return self.base, self.quantization


@dataclass(frozen=True)
class Likelihood:
    """Of one token: the natural logarithm of the model's own probability, at temperature 1, before `top_p` and
    before any constraint. `others`: the likeliest tokens at its place, itself perhaps among them."""

    token: bytes
    logprob: float
    others: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True)
class Piece:
    """A part of answer number `index`. `tokens` is empty where nobody asked for log-probabilities."""

    index: int
    text: str
    tokens: tuple[Likelihood, ...] = ()


@dataclass(frozen=True)
class AnswerCalls:
    """The tool calls of answer number `index`, all at once, before its end."""

    index: int
    calls: Sequence[ToolCall]


EndReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class AnswerEnd:
    """The end of answer number `index`. `completion_tokens` leaves the token out that ends the turn."""

    index: int
    reason: EndReason
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Embeddings:
    """A vector a text, and the tokens that were read."""

    vectors: tuple[tuple[float, ...], ...]
    tokens: int


Outcome = Piece | AnswerCalls | AnswerEnd | Embeddings | ApiError
Emit = Callable[[Outcome], object]


class Ticket:
    """A place in the queue."""

    def __init__(self) -> None:
        self.is_abandoned = False

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self.is_abandoned = True


@dataclass(frozen=True)
class Request:
    """`emit` hears Pieces, Called and one Answered for each of `sampling.n`, or a Problem, from the generator's thread.
    `prompt`: text or token ids that are continued as they are, in the place of messages."""

    target: Target
    messages: Sequence[ChatMessage]
    sampling: Sampling
    streams: bool
    emit: Emit
    ticket: Ticket = field(default_factory=Ticket)
    tools: Tools = Tools()
    prompt: str | Sequence[int] | None = None

    @property
    def rows(self) -> int:
        return self.sampling.n


@dataclass(frozen=True)
class EmbeddingRequest:
    """`texts` become vectors of unit length; `emit` hears one Embedded or a Problem."""

    target: Target
    texts: Sequence[str]
    emit: Emit
    ticket: Ticket = field(default_factory=Ticket)

    @property
    def rows(self) -> int:
        """Texts are read many at a time, and nothing is written."""
        return -(-len(self.texts) // 16)


PendingRequest = Request | EmbeddingRequest


class GenerationEngine(Protocol):
    """Computes what is asked: `generator.Generator` in this process, `vllm_engine.VllmEngine` by vLLM beside it."""

    def submit(self, request: PendingRequest) -> Ticket:
        """Returns at once; the outcomes go to `request.emit`. Raises ApiError (503) where too much waits already."""
        ...

    def stop(self) -> None: ...


def adapter_is_gone(adapter: Path) -> ApiError:
    name = (
        adapter.parent.name if adapter.name == "adapter" else f"{adapter.parent.parent.name}/{adapter.name}"
    )
    problem = missing("adapter", name, "model_not_found", "model")
    problem.message += " It was deleted while the request waited."
    return problem


def check_base_unchanged(source: str, trained_on: str | None, fingerprint: str) -> None:
    """`trained_on`: the fingerprint of the base that the adapter was trained on, where that is known. Raises ApiError
    (409)."""
    if trained_on not in (None, fingerprint):
        text = (
            f"This model was tuned on another state of its base model {source}: the weights there have "
            "changed since. Put the former ones back and start the trainer again, or train again."
        )
        raise ApiError(409, text, "adapter_of_another_base", "model")
