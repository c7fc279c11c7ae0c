"""Requests to a generation engine, and its outcomes. No torch, no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from trainers.http.errors import ApiError, not_found
from trainers.local.tool_calls import ToolCall
from trainers.methods import Quantization

if TYPE_CHECKING:
    from trainers.encoders.classifier import Classification

MAX_ADAPTERS = 8  # in memory, and therefore in one batch
# Shares of a GPU's memory.
SHARE_ALONE = 0.9
SHARE_WHILE_TRAINING = 0.3
ADAPTER_CONFIG = "adapter_config.json"
Ids = tuple[int, ...]
Weights = tuple[str, Quantization]


@dataclass(frozen=True)
class ChatMessage:
    """`calls` are those of an assistant's message, by their ids. In a tool's message, `call_id` and `name` are those of
    the call that it answers."""

    role: str
    content: str
    calls: Mapping[str, ToolCall] = field(default_factory=dict)
    call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Tools:
    """The tools that a model may call. `definitions` are in OpenAI's form, which chat templates use too. One of the
    tools named in `required` must be called; if it is empty, the model decides."""

    definitions: Sequence[Mapping[str, Any]] = ()
    required: Sequence[str] = ()


@dataclass(frozen=True)
class Sampling:
    """How an answer is sampled. Without `max_tokens` it may fill the context. Below a temperature of 0.001 it is
    greedy. It ends before a text of `stop`. Penalties and `logit_bias` (by token id) are OpenAI's: they are subtracted
    from, and added to, a token's logit. `top_k` (None for all tokens), `min_p` and `repetition_penalty` are vLLM's.

    Each of the `n` answers to the same prompt uses the seed after the previous one's. `top_logprobs` is how many of the
    likeliest tokens are listed at each place; None means no log-probabilities. `grammar` is in constraints.py's form.
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
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @property
    def is_weighed(self) -> bool:
        """True if tokens are made more or less likely than the model has them."""
        penalties = (self.frequency_penalty, self.presence_penalty, self.repetition_penalty - 1)
        return any(penalties) or bool(self.logit_bias)


@dataclass(frozen=True)
class Target:
    """What answers a request: a base model (local folder or hub id), the folder of an adapter, if any, and the format
    of the base's weights that the adapter was trained on. An encoder's adapter is a folder of
    trainers/encoders/classifier.py."""

    base: str
    adapter: Path | None
    quantization: Quantization = "none"
    is_encoder: bool = False

    @property
    def weights(self) -> Weights:
        """The part that is loaded once for all adapters."""
        return self.base, self.quantization


@dataclass(frozen=True)
class Likelihood:
    """A token with the natural logarithm of its probability, at temperature 1, before `top_p` and any constraint.
    `others` are the likeliest tokens at its place, which may include the token itself."""

    token: bytes
    logprob: float
    others: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True)
class Piece:
    """A piece of the text of answer number `index`. `tokens` is empty unless the request asks for log-probabilities."""

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
    """The end of answer number `index`. `completion_tokens` doesn't count the token that ends the turn. `cached_tokens`
    are those of the prompt that were read for an earlier request. Only encoders' answers have a `classification`."""

    index: int
    reason: EndReason
    prompt_tokens: int
    completion_tokens: int
    classification: Classification | None = None
    cached_tokens: int = 0


@dataclass(frozen=True)
class Embeddings:
    """One vector per text, and the number of tokens that were read."""

    vectors: tuple[tuple[float, ...], ...]
    tokens: int


Outcome = Piece | AnswerCalls | AnswerEnd | Embeddings | ApiError
Emit = Callable[[Outcome], object]


class Ticket:
    """A request's place in the queue. Its owner abandons it as soon as nobody waits for the answer."""

    def __init__(self) -> None:
        self.is_abandoned = False

    def abandon(self) -> None:
        self.is_abandoned = True


@dataclass(frozen=True)
class Request:
    """A request for `sampling.n` answers. `prompt` replaces the messages by text or token ids that are continued as
    they are. `template_options` are further variables for the chat template. `emit` is called from the engine's thread,
    with Pieces, AnswerCalls and an AnswerEnd for each answer, or with an ApiError."""

    target: Target
    messages: Sequence[ChatMessage]
    sampling: Sampling
    streams: bool
    emit: Emit
    ticket: Ticket = field(default_factory=Ticket)
    tools: Tools = Tools()
    prompt: str | Sequence[int] | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.sampling.n


@dataclass(frozen=True)
class EmbeddingRequest:
    """A request for a vector of unit length for each of `texts`. `emit` gets one Embeddings, or an ApiError."""

    target: Target
    texts: Sequence[str]
    emit: Emit
    ticket: Ticket = field(default_factory=Ticket)

    @property
    def rows(self) -> int:
        """How many answers the request counts for in the queue: 16 texts take about as long as one answer."""
        return -(-len(self.texts) // 16)


PendingRequest = Request | EmbeddingRequest


class GenerationEngine(Protocol):
    """Answers requests: `generator.Generator` in this process, `vllm_engine.VllmEngine` by a separate vLLM server."""

    def submit(self, request: PendingRequest) -> Ticket:
        """Returns at once; the outcomes go to `request.emit`. Raises ApiError (503) if too many answers are queued."""
        ...

    def forget_texts(self) -> None:
        """Drops what the engine keeps in memory of earlier prompts and answers."""
        ...

    def stop(self) -> None: ...


def gpu_share(is_training: bool) -> float:
    """Returns the share of a GPU's memory that serving may take, which is smaller while a job trains there."""
    if is_training:
        return SHARE_WHILE_TRAINING
    return SHARE_ALONE


def adapter_gone_error(adapter: Path) -> ApiError:
    """Returns 404 if the model was deleted, and 500 if its job is still there and only the adapter's folder isn't."""
    job = adapter.parent
    is_result = adapter.name == "adapter"  # a checkpoint's folder may be removed by its training
    if is_result and job.is_dir() and not (job / "MODEL_DELETED").exists():
        return adapter_damaged_error(adapter, "its folder is missing")
    problem = not_found("adapter", _adapter_name(adapter), "model_not_found", "model")
    problem.message += " It was deleted while the request waited."
    return problem


def adapter_damaged_error(adapter: Path, what: str) -> ApiError:
    text = (
        f"The adapter of this model ({_adapter_name(adapter)}) can't be loaded: {what}. Restore the trainer's data "
        "folder from a backup, or train again."
    )
    return ApiError(500, text, "adapter_damaged", "model", kind="server_error")


def absent_file_error(adapter: Path, name: str) -> ApiError:
    """Returns the error for a file of an adapter that isn't there."""
    if not adapter.is_dir():  # deleted since the caller looked
        return adapter_gone_error(adapter)
    return adapter_damaged_error(adapter, f"its file {name} is missing")


def check_adapter_files(adapter: Path) -> None:
    """Raises ApiError: 500 about a file that is missing or cut off, 404 if the folder is gone. An engine reads the
    files only after it has changed the base's layers."""
    # Imported late: a server that only trains does without.
    from safetensors import SafetensorError, safe_open

    for name in (ADAPTER_CONFIG, "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise absent_file_error(adapter, name)
    try:
        with safe_open(adapter / "adapter_model.safetensors", "numpy"):
            pass
    except (OSError, SafetensorError) as error:
        what = f"its file adapter_model.safetensors is not complete ({first_words(error)})"
        raise adapter_damaged_error(adapter, what) from error


def first_words(error: Exception) -> str:
    """Returns the beginning of a library's message, without its line breaks."""
    return " ".join(str(error).split())[:200].rstrip(".")


def _adapter_name(adapter: Path) -> str:
    if adapter.name == "adapter":
        return adapter.parent.name
    return f"{adapter.parent.parent.name}/{adapter.name}"


def check_base_unchanged(source: str, trained_on: str | None, fingerprint: str) -> None:
    """Raises ApiError (409) unless the base's weights are those that the adapter was trained on. `trained_on` is the
    fingerprint of those, None if unknown."""
    if trained_on not in (None, fingerprint):
        text = (
            f"The weights of the base model {source} have changed since this model was tuned. Put the former weights "
            "back and restart the trainer, or train again."
        )
        raise ApiError(409, text, "adapter_of_another_base", "model")
