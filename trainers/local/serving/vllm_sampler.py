"""Lets vLLM write the answers that a GRPO training samples, many at a time.

The adapter is written for each step and loaded into a vLLM server of the training's own, which has the GPU's memory
that the training leaves. The server starts with the first answers and ends with the training, also if that is killed.
If it ends by itself, it is started once more for the same answers; after that the training goes on without it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from trainers.http.errors import ApiError
from trainers.local.base_download import fetch_base
from trainers.local.engines.catalog import VLLM, engines_folder, find_installation
from trainers.local.engines.vllm import VllmOptions, adapter_refusal, find_missing_reason, vllm_rank
from trainers.local.job_directory import read_json
from trainers.local.jobs.backends import GPUS_VARIABLE
from trainers.local.serving.values import ADAPTER_CONFIG
from trainers.local.serving.vllm_process import ENDED, VllmServer
from trainers.local.training.methods.sampling import SampledAnswer, Sampler, SamplerFailed, SamplerSetup
from trainers.local.training.tuned_weights import write_tuned

T = TypeVar("T")
FOLDER = "sampling"  # in the job's folder: the newest adapter, and vLLM's log
LOG = "vllm.log"
AT_ONCE = 256  # answers that vLLM is asked for at a time, about as many as it writes together
LEAST_FREE = 1.5  # times the weights: a server with less memory couldn't hold answers beside them
LARGEST_SHARE = 0.9


def start_sampler(setup: SamplerSetup) -> Sampler:
    """Returns a sampler, whose server starts with the first answers."""
    return VllmSampler(setup)


class VllmSampler:
    takes_a_step = True

    def __init__(self, setup: SamplerSetup) -> None:
        self._setup = setup
        self._folder = setup.folder / FOLDER
        self._loop = asyncio.new_event_loop()
        self._server: VllmServer | None = None
        self._written = 0
        shutil.rmtree(self._folder, ignore_errors=True)  # of an attempt that was killed
        self._folder.mkdir()

    def answer(self, prompts: Sequence[list[int]], most: int, *, is_sampled: bool) -> list[SampledAnswer]:
        adapter = self._write_adapter()
        # Drawn here, so that a training that resumes asks for the same answers again.
        seeds = torch.randint(2**62, (len(prompts),)).tolist()
        bodies = [
            self._body(prompt, most, seed, is_sampled=is_sampled)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        try:
            return self._wait_for(self._answer_all(adapter, bodies))
        except ApiError as error:
            is_refusal = error.status < 500
            if self._server is None or is_refusal:
                raise SamplerFailed(error.message) from error
            how = "It ended while it answered."
            if error.code != ENDED:
                how = error.message
        self._setup.logger.warn(f"vLLM is started again. {how}")
        self._wait_for(self._stop())  # its server may outlive its engine for a while
        try:
            return self._wait_for(self._answer_all(adapter, bodies))
        except ApiError as error:
            raise SamplerFailed(error.message) from error

    def close(self) -> None:
        """Ends the server and deletes the adapter's copy; vLLM's log stays."""
        if self._loop.is_closed():
            return
        self._wait_for(self._stop())
        self._loop.close()
        shutil.rmtree(self._newest, ignore_errors=True)

    @property
    def _newest(self) -> Path:
        return self._folder / f"{self._written:06d}"

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def _write_adapter(self) -> Path:
        """Writes the adapter as it is now into a folder of its own, since vLLM keeps what it has loaded by its path."""
        before = self._newest
        self._written += 1
        self._newest.mkdir()
        write_tuned(self._newest, self._setup.model)
        shutil.rmtree(before, ignore_errors=True)
        return self._newest

    def _body(self, prompt: list[int], most: int, seed: int, *, is_sampled: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "prompt": prompt,
            "max_tokens": most,
            "temperature": 0,
            "top_p": 1,
            "seed": seed,
            "stop": [],
            "stop_token_ids": list(self._setup.ends),
            "return_token_ids": True,
        }
        if is_sampled:
            body["temperature"] = self._setup.settings.temperature
            body["logprobs"] = 0  # that of the token itself
        return body

    async def _answer_all(self, adapter: Path, bodies: Sequence[dict[str, Any]]) -> list[SampledAnswer]:
        server = await self._running_server(adapter)
        room = asyncio.Semaphore(AT_ONCE)

        async def ask(name: str, body: dict[str, Any]) -> SampledAnswer:
            async with room:
                return _read_choice(await server.completion({**body, "model": name}))

        async with server.model(adapter) as name:
            requests = [asyncio.create_task(ask(name, body)) for body in bodies]
            try:
                return await asyncio.gather(*requests)
            finally:
                for task in requests:
                    task.cancel()
                await asyncio.gather(*requests, return_exceptions=True)

    async def _running_server(self, adapter: Path) -> VllmServer:
        """Raises SamplerFailed, or ApiError if the server ends before it is ready."""
        if self._server is not None and self._server.is_alive:
            return self._server
        await self._stop()
        engine = find_installation(engines_folder(self._setup.folder), VLLM)
        reason = find_missing_reason(engines_folder(self._setup.folder))
        if engine is None or reason:
            raise SamplerFailed(str(reason))
        self._setup.logger.log(f"Starting vLLM {engine.version} to write the answers")
        begun = time.monotonic()
        self._server = VllmServer(engine, self._options(adapter), self._gpu(), self._folder / LOG)
        await self._server.wait_until_ready()
        self._setup.logger.log(f"vLLM is ready after {time.monotonic() - begun:.0f} s")
        return self._server

    async def _stop(self) -> None:
        server = self._server
        self._server = None
        if server is not None:
            await server.stop()

    def _options(self, adapter: Path) -> VllmOptions:
        """Raises SamplerFailed if vLLM can't load the adapter, or has too little memory."""
        config = read_json(adapter / ADAPTER_CONFIG)
        assert config is not None  # noqa: S101 - written a moment ago
        reason = adapter_refusal(config)
        if reason:
            raise SamplerFailed(reason)
        base = fetch_base(self._setup.job.base)
        return VllmOptions(
            base=base,
            dtype=str(self._setup.dtype).removeprefix("torch."),
            rank=vllm_rank(config),
            adapters=1,
            share=self._share(),
            is_for_training=True,
        )

    def _share(self) -> float | None:
        """Returns the share of the GPU's memory that the training leaves; None on a CPU. Raises SamplerFailed."""
        spare = self._setup.spare
        if spare is None:
            if self._setup.device.type != "cuda":
                return None
            raise SamplerFailed(
                "How much memory this training needs can't be told, and so not how much it leaves for vLLM."
            )
        numbers = sum(weight.numel() for weight in self._setup.model.parameters())
        weights = numbers * self._setup.dtype.itemsize
        if spare < LEAST_FREE * weights:
            raise SamplerFailed(
                f"Beside this training the GPU has about {spare / 1e9:.1f} GB, too little for vLLM with a second copy "
                f"of the weights ({weights / 1e9:.1f} GB)."
            )
        torch.cuda.empty_cache()
        _, total = torch.cuda.mem_get_info(self._setup.device)
        return min(LARGEST_SHARE, spare / total)

    def _gpu(self) -> str | None:
        """Returns the training's GPU as CUDA_VISIBLE_DEVICES names it."""
        if self._setup.device.type != "cuda":
            return None
        index = self._setup.device.index or 0
        visible = os.environ.get(GPUS_VARIABLE)
        if not visible:
            return str(index)
        return visible.split(",")[index]


def _read_choice(choice: dict[str, Any]) -> SampledAnswer:
    logprobs = None
    if choice["logprobs"]:
        logprobs = choice["logprobs"]["token_logprobs"]
    return SampledAnswer(choice["token_ids"], logprobs)
