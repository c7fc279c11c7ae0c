"""The engine that answers by vLLM. Prompts, grammars, stop texts and tool calls are handled as in the built-in engine:
vLLM gets token ids and returns token ids, so that answers don't depend on the engine.

One vLLM server runs at a time, for the base that was asked last. It is started by the first request, restarted if it
ended, and replaced for another base, a higher LoRA rank or another share of the GPU once its open answers are done. The
built-in engine makes embeddings."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.http.errors import ApiError, invalid
from trainers.local.base_download import fetch_base
from trainers.local.base_files import adapter_base_fingerprint, base_fingerprint
from trainers.local.engines.catalog import VLLM, find_installation
from trainers.local.engines.vllm import (
    VLLM_RANKS,
    VllmOptions,
    adapter_refusal,
    find_missing_reason,
    vllm_rank,
)
from trainers.local.job_directory import read_json
from trainers.local.serving.answers import (
    GREEDY_BELOW,
    AnswerWriter,
    Preparation,
    busy_error,
    check_queue,
    internal_error,
    prepare,
)
from trainers.local.serving.values import (
    ADAPTER_CONFIG,
    MAX_ADAPTERS,
    EmbeddingRequest,
    GenerationEngine,
    Likelihood,
    PendingRequest,
    Request,
    Target,
    Ticket,
    absent_file_error,
    check_base_unchanged,
    gpu_share,
)
from trainers.local.serving.vllm_process import LOG, RETRY_S, VllmServer
from trainers.local.training.errors import TrainingFailed

if TYPE_CHECKING:
    from trainers.local.serving.vocabulary import Vocabulary

LOOK_S = 0.5  # how often to check whether a client hung up, or a job needs the GPU
SMALLEST_TOP_P = 1e-6  # vLLM refuses 0
USUAL_RANK = 16
TOKEN = "token_id:"  # noqa: S105  the prefix of a token's id if a request asks for ids

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedBase:
    """A base's folder and vocabulary, the fingerprint of its weights, and its number format as vLLM names it."""

    folder: Path
    fingerprint: str
    dtype: str
    vocabulary: Vocabulary


class VllmEngine:
    """`engines` is the trainer's folder of engines. `gpu` is the first of the trainer's GPUs, None on a CPU.
    `is_training` returns True if a job uses it too. `builtin` makes embeddings."""

    def __init__(
        self, engines: Path, builtin: GenerationEngine, is_training: Callable[[], bool], gpu: str | None
    ) -> None:
        self._engines = engines
        self._builtin = builtin
        self._is_training = is_training
        self._gpu = gpu
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # guards the thread's start and the count of open rows
        self._open_rows = 0
        self._ended_at: deque[float] = deque(maxlen=50)  # when the last answers ended, in monotonic seconds
        # These belong to the loop's thread.
        self._bases: dict[str, ServedBase] = {}
        self._server: VllmServer | None = None
        self._turn = asyncio.Lock()  # held while the server is replaced; requests wait in the order they came
        self._idle = asyncio.Event()
        self._open_requests = 0

    def submit(self, request: PendingRequest) -> Ticket:
        """Raises ApiError (503) if too many answers are queued already."""
        if isinstance(request, EmbeddingRequest):
            return self._builtin.submit(request)
        with self._lock:
            rows_per_second = 1.0
            if len(self._ended_at) > 1:
                rows_per_second = len(self._ended_at) / max(0.1, time.monotonic() - self._ended_at[0])
            check_queue(self._open_rows, request.rows, rows_per_second)
            self._open_rows += request.rows
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
                self._thread.start()
        asyncio.run_coroutine_threadsafe(self._answer(request), self._loop)
        return request.ticket

    def forget_texts(self) -> None:
        """vLLM keeps the keys and values of prompts, not their texts, until it needs the room or ends."""
        self._builtin.forget_texts()

    def stop(self) -> None:
        self._builtin.stop()
        if self._thread is not None:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop)
            self._thread.join(30)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._idle.set()
        watch = self._loop.create_task(self._stop_for_training())
        self._loop.run_forever()
        watch.cancel()
        self._loop.run_until_complete(asyncio.gather(watch, return_exceptions=True))
        self._loop.close()

    async def _close(self) -> None:
        current = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stop_server()
        self._loop.stop()

    async def _answer(self, request: Request) -> None:
        work = asyncio.create_task(self._write_answers(request))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=LOOK_S)
                if not work.done() and request.ticket.is_abandoned:
                    work.cancel()
            if not work.cancelled() and (error := work.exception()):
                if not isinstance(error, ApiError):
                    error = internal_error(error)
                request.emit(error)
                request.ticket.abandon()
        finally:
            work.cancel()
            with self._lock:
                self._open_rows -= request.rows
                self._ended_at.extend([time.monotonic()] * request.rows)

    async def _write_answers(self, request: Request) -> None:
        source = request.target.base
        if source not in self._bases:
            self._bases[source] = await asyncio.to_thread(_load_base, source)
        base = self._bases[source]
        options = self._options(request.target, base)
        async with self._hold_server(options) as server, server.model(request.target.adapter) as model:
            preparation = await asyncio.to_thread(_prepare, request, base.vocabulary, server.context)
            async with _run_together() as start:
                for index in range(request.rows):
                    writer = AnswerWriter(request, index, preparation, base.vocabulary)
                    body = completion_body(request, index, preparation, model, base.vocabulary.ends)
                    start(_write_answer(server, writer, body, base.vocabulary))

    def _options(self, target: Target, base: ServedBase) -> VllmOptions:
        """Returns the options that a server needs to answer for `target`. Raises ApiError if vLLM can't serve it."""
        if target.quantization != "none":
            text = (
                f"This model was tuned with its base in {target.quantization}, which this trainer can't serve by vLLM. "
                "Start the trainer with --serving-engine builtin, or train without quantization."
            )
            raise invalid(text, "model", "engine_cannot")
        rank = USUAL_RANK
        if target.adapter is not None:
            config = read_json(target.adapter / ADAPTER_CONFIG)
            if config is None:
                raise absent_file_error(target.adapter, ADAPTER_CONFIG)
            check_base_unchanged(target.base, adapter_base_fingerprint(target.adapter), base.fingerprint)
            reason = adapter_refusal(config)
            if reason:
                text = f"{reason} Start the trainer with --serving-engine builtin to use this model."
                raise invalid(text, "model", "engine_cannot")
            rank = max(rank, vllm_rank(config))
        assert rank in VLLM_RANKS  # noqa: S101
        return VllmOptions(base.folder, base.dtype, rank, MAX_ADAPTERS, self._share())

    def _share(self) -> float | None:
        if self._gpu is None:
            return None
        return gpu_share(self._is_training())

    @asynccontextmanager
    async def _hold_server(self, options: VllmOptions) -> AsyncIterator[VllmServer]:
        """Yields a server with these options, which keeps running until the block ends."""
        async with self._turn:
            server = self._server
            if server is None or not server.is_alive or not server.options.serves(options):
                await self._idle.wait()
                await self._stop_server()
                server = await self._start_server(options)
            self._open_requests += 1
            self._idle.clear()
        try:
            yield server
        finally:
            self._open_requests -= 1
            if not self._open_requests:
                self._idle.set()

    async def _start_server(self, options: VllmOptions) -> VllmServer:
        engine = find_installation(self._engines, VLLM)
        reason = find_missing_reason(self._engines)
        if engine is None or reason:
            raise busy_error(str(reason), "engine_not_installed", RETRY_S)
        log.info("starting vLLM %s for %s", engine.version, options.base)
        server = VllmServer(engine, options, self._gpu, engine.home / LOG)
        try:
            await server.wait_until_ready()
        except BaseException:
            await server.stop()
            raise
        self._server = server
        return server

    async def _stop_server(self) -> None:
        server = self._server
        self._server = None  # before the wait, so that nobody is given a server that ends
        if server is not None:
            await server.stop()

    async def _stop_for_training(self) -> None:
        """Stops a server with more than serving's share while a job trains on its GPU. The next request starts one with
        the smaller share."""
        while True:
            await asyncio.sleep(LOOK_S)
            server = self._server
            share = self._share()
            if server is None or share is None or (server.options.share or 0) <= share:
                continue
            async with self._turn:
                await self._idle.wait()
                await self._stop_server()


def _prepare(request: Request, vocabulary: Vocabulary, context: int) -> Preparation:
    """Raises ApiError (400), also for a grammar that no text satisfies, to which vLLM would answer with no text."""
    preparation = prepare(request, vocabulary, context)
    if preparation.grammar is not None:
        vocabulary.guide(preparation.grammar).allowed_tokens()
    return preparation


@asynccontextmanager
async def _run_together() -> AsyncIterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Yields a function that starts tasks, which are awaited at the block's end. The first error cancels the others and
    is raised as it is; asyncio.TaskGroup would wrap it in an ExceptionGroup."""
    tasks: list[asyncio.Task[None]] = []
    try:
        yield lambda work: tasks.append(asyncio.create_task(work))
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _load_base(source: str) -> ServedBase:
    """Loads a base's tokenizer, not its weights. Imports torch. Raises ApiError (500)."""
    from transformers import GenerationConfig

    from trainers.local.serving.vocabulary import Vocabulary, end_tokens
    from trainers.local.training.base_model import load_config, load_tokenizer
    from trainers.local.training.devices import best_device, best_dtype

    try:
        folder = fetch_base(source)
        config = load_config(str(folder))
        tokenizer = load_tokenizer(str(folder))
    except TrainingFailed as error:
        raise ApiError(500, error.message, error.code, error.param, kind="server_error") from error
    generation: Any = config
    if (folder / "generation_config.json").exists():
        generation = GenerationConfig.from_pretrained(folder)
    dtype = str(best_dtype(best_device(), config.model_type)).removeprefix("torch.")
    width = int(config.get_text_config().vocab_size)
    vocabulary = Vocabulary(tokenizer, end_tokens(generation, tokenizer), width)
    return ServedBase(folder, base_fingerprint(folder), dtype, vocabulary)


def completion_body(
    request: Request, index: int, preparation: Preparation, model: str, ends: frozenset[int]
) -> dict[str, Any]:
    """Returns the body of the request to vLLM's POST /v1/completions for answer number `index`."""
    sampling = request.sampling
    temperature = sampling.temperature
    if temperature < GREEDY_BELOW:
        temperature = 0
    seed = sampling.seed
    if seed is None:
        seed = secrets.randbits(62)
    body: dict[str, Any] = {
        "model": model,
        "prompt": preparation.prompt,
        "max_tokens": preparation.limit,
        "temperature": temperature,
        "top_p": max(SMALLEST_TOP_P, sampling.top_p),
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "stop": list(sampling.stop),
        "stop_token_ids": sorted(ends),
        "seed": (seed + index) % 2**63,
        "return_token_ids": True,
    }
    if sampling.top_k is not None:
        body["top_k"] = sampling.top_k
    if sampling.min_p:
        body["min_p"] = sampling.min_p
    if sampling.repetition_penalty != 1:
        body["repetition_penalty"] = sampling.repetition_penalty
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.top_logprobs is not None:
        body |= {"logprobs": sampling.top_logprobs, "return_tokens_as_token_ids": True}
    if preparation.grammar is not None:
        body["structured_outputs"] = {"grammar": preparation.grammar}
    return body


async def _write_answer(
    server: VllmServer, writer: AnswerWriter, body: Mapping[str, Any], vocabulary: Vocabulary
) -> None:
    if not writer.request.streams:
        _take(await server.completion(body), writer, vocabulary)
        return
    async for choice in server.completion_parts(body):
        _take(choice, writer, vocabulary)
        if writer.is_done:
            return  # closing the stream makes vLLM abort the answer


def _take(choice: Mapping[str, Any], writer: AnswerWriter, vocabulary: Vocabulary) -> None:
    """Adds the tokens of `choice`, which is an answer or a part of one, to the writer."""
    if "cached_tokens" in choice:
        writer.cached_tokens = choice["cached_tokens"]
    tokens: Sequence[int] = choice["token_ids"] or ()
    likelihoods: Sequence[Likelihood | None] = _likelihoods(choice, writer, vocabulary)
    if not likelihoods:
        likelihoods = [None] * len(tokens)
    for token, likelihood in zip(tokens, likelihoods, strict=True):
        if not writer.is_done:
            writer.accept(token, likelihood)
    if not choice["finish_reason"] or writer.is_done:
        return
    if choice["finish_reason"] == "length":
        writer.finish("length")
    else:
        writer.finish("stop")


def _likelihoods(
    choice: Mapping[str, Any], writer: AnswerWriter, vocabulary: Vocabulary
) -> Sequence[Likelihood]:
    """Returns one per token, or none unless the request asks for them. vLLM lists the chosen token in addition to the
    likeliest ones, so the list is cut."""
    most = writer.request.sampling.top_logprobs
    if most is None or not choice.get("logprobs"):
        return ()
    logprobs = choice["logprobs"]
    likelihoods = []
    lists = (logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"])
    for name, logprob, logprobs_by_name in zip(*lists, strict=True):
        others = sorted((logprobs_by_name or {}).items(), key=lambda pair: -pair[1])[:most]
        likeliest = tuple((vocabulary.bytes_of(_token_id(other)), value) for other, value in others)
        likelihoods.append(Likelihood(vocabulary.bytes_of(_token_id(name)), logprob, likeliest))
    return likelihoods


def _token_id(name: str) -> int:
    return int(name.removeprefix(TOKEN))
