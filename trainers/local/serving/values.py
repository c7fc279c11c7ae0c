"""Requests to a generation engine, and what it answers. No torch, no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from trainers.local.api_errors import ApiError, not_found
from trainers.local.tool_calls import ToolCall
from trainers.methods import Quantization

if TYPE_CHECKING:
    from trainers.encoders.classifier import Classification

MAX_ADAPTERS = 8  # in memory, and so in one batch
SHARE_ALONE, SHARE_WHILE_TRAINING = 0.9, 0.3  # of a GPU's memory
Ids = tuple[int, ...]
Weights = tuple[str, Quantization]


@dataclass(frozen=True)
class ChatMessage:
    """`calls` by their ids, in an assistant's message. `call_id` and `name` are those of the call that a tool's message
    answers."""

    role: str
    content: str
    calls: Mapping[str, ToolCall] = field(default_factory=dict)
    call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Tools:
    """What a model may call: `definitions` in OpenAI's form, which is also that of chat templates. One of the tools
    named in `required` must be called; where it is empty the model decides."""

    definitions: Sequence[Mapping[str, Any]] = ()
    required: Sequence[str] = ()


@dataclass(frozen=True)
class Sampling:
    """`max_tokens` None: as far as the context goes. Greedy below a temperature of 0.001. The answer ends before a text
    of `stop`. Penalties and `logit_bias` (by token id) are OpenAI's: subtracted from, and added to, a token's logit.

    `n` answers to the same prompt, each with the seed after that of the one before. `top_logprobs`: how many other
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
    that the adapter was trained on. An encoder's adapter is what encoder_folder.py describes."""

    base: str
    adapter: Path | None
    quantization: Quantization = "none"
    is_encoder: bool = False

    @property
    def weights(self) -> Weights:
        """What is loaded once for all adapters over the base."""
        return self.base, self.quantization


@dataclass(frozen=True)
class Likelihood:
    """The natural logarithm of the model's own probability of one token, at temperature 1, before `top_p` and
    before any constraint. `others`: the likeliest tokens at its place, perhaps itself among them."""

    token: bytes
    logprob: float
    others: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True)
class Piece:
    """Text of answer number `index`. `tokens` is empty where the request asks for no log-probabilities."""

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
    """The end of answer number `index`. `completion_tokens` doesn't count the token that ends the turn.
    `classification`: of an encoder's answer."""

    index: int
    reason: EndReason
    prompt_tokens: int
    completion_tokens: int
    classification: Classification | None = None


@dataclass(frozen=True)
class Embeddings:
    """One vector per text, and the number of tokens that were read."""

    vectors: tuple[tuple[float, ...], ...]
    tokens: int


Outcome = Piece | AnswerCalls | AnswerEnd | Embeddings | ApiError
Emit = Callable[[Outcome], object]


class Ticket:
    """A request's place in the queue. Its owner abandons it when nobody waits for the answer any more."""

    def __init__(self) -> None:
        self.is_abandoned = False

    def abandon(self) -> None:
        self.is_abandoned = True


@dataclass(frozen=True)
class Request:
    """A request for `sampling.n` answers. `prompt`: text or token ids that are continued as they are, in place of
    messages. `emit` is called from the engine's thread: with Pieces, AnswerCalls and an AnswerEnd for each answer, or
    with an ApiError."""

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
    """`texts` become vectors of unit length. `emit` gets one Embeddings, or an ApiError."""

    target: Target
    texts: Sequence[str]
    emit: Emit
    ticket: Ticket = field(default_factory=Ticket)

    @property
    def rows(self) -> int:
        """What it counts for in the queue: texts are read many at a time, and nothing is written."""
        return -(-len(self.texts) // 16)


PendingRequest = Request | EmbeddingRequest


class GenerationEngine(Protocol):
    """Answers requests: `generator.Generator` in this process, `vllm_engine.VllmEngine` by a vLLM server beside it."""

    def submit(self, request: PendingRequest) -> Ticket:
        """Returns at once; the outcomes go to `request.emit`. Raises ApiError (503) where too much waits already."""
        ...

    def stop(self) -> None: ...


def gpu_share(is_training: bool) -> float:
    """The share of a GPU's memory that serving may take, while a job trains there or not."""
    return SHARE_WHILE_TRAINING if is_training else SHARE_ALONE


def adapter_gone_error(adapter: Path) -> ApiError:
    name = (
        adapter.parent.name if adapter.name == "adapter" else f"{adapter.parent.parent.name}/{adapter.name}"
    )
    problem = not_found("adapter", name, "model_not_found", "model")
    problem.message += " It was deleted while the request waited."
    return problem


def check_base_unchanged(source: str, trained_on: str | None, fingerprint: str) -> None:
    """Raises ApiError (409) where the base's weights are not those that the adapter was trained on. `trained_on`: their
    fingerprint, None where it isn't known."""
    if trained_on not in (None, fingerprint):
        text = (
            f"This model was tuned on another state of its base model {source}: the weights there have "
            "changed since. Put the former ones back and start the trainer again, or train again."
        )
        raise ApiError(409, text, "adapter_of_another_base", "model")
