"""A vLLM server as a child process of the trainer: starts it, waits until it is ready, sends requests and stops it.

Its endpoint that loads adapters takes any path, so nobody else may reach it: it listens on a Unix socket in a folder
that only our user may enter, and requires a random key."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from trainers.host import HUB_KEYS, child_environment
from trainers.http.errors import ApiError
from trainers.local.engines.catalog import Installation, lock_engine
from trainers.local.engines.vllm import SERVED_BASE, VllmOptions, serve_command
from trainers.local.serving.answers import busy_error
from trainers.local.serving.values import adapter_gone_error, check_adapter_files

START_S = 1200.0  # two busy cores took 4 minutes, and a large base may be on a slow disk
POLL_S = 0.5
ENDING_S = 2.0
GRACE_S = 5.0
RETRY_S = 30
REQUEST_S = 3600.0
LOG = "serve.log"
ENDED = "engine_ended"  # the error's code if the process ends while it answers


class VllmServer:
    """`context` is in tokens, and known once the server is ready."""

    def __init__(self, engine: Installation, options: VllmOptions, gpu: str | None, log: Path) -> None:
        """Starts the process, which writes to `log`. `gpu` is named as in CUDA_VISIBLE_DEVICES. Raises ApiError (503)
        while vLLM is being installed or removed."""
        self.options = options
        self.context = 0
        self._log = log
        self._adapters: OrderedDict[Path, str] = OrderedDict()
        self._in_use: Counter[Path] = Counter()
        self._loaded = 0
        self._loading = asyncio.Lock()
        self._resources = ExitStack()
        if not self._resources.enter_context(lock_engine(engine.home, alone=False)):
            text = "vLLM is being installed or removed. Try again when that is done."
            raise busy_error(text, "lock_engine", RETRY_S)
        # short, since a socket's path is limited to 107 bytes
        folder = Path(tempfile.mkdtemp(prefix="finetune-vllm-"))
        self._resources.callback(shutil.rmtree, folder, ignore_errors=True)
        key = secrets.token_urlsafe(32)
        environment = child_environment(*HUB_KEYS, "VLLM_") | {
            "VLLM_API_KEY": key,
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",  # the base is already downloaded
        }
        if gpu is None:
            environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # other processes use the cores too
        else:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with log.open("wb") as written:
            self._process = subprocess.Popen(
                serve_command(engine, options, folder / "vllm.sock"),
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                env=environment,
                start_new_session=True,
            )
        self._http = httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(
                uds=str(folder / "vllm.sock"), limits=httpx2.Limits(max_connections=None)
            ),
            base_url="http://vllm",
            headers={"Authorization": f"Bearer {key}"},
            timeout=REQUEST_S,
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    async def wait_until_ready(self) -> None:
        """Raises ApiError (503), with the last line of its log, if it ends before it is ready or takes too long."""
        deadline = time.monotonic() + START_S
        while self.is_alive and time.monotonic() < deadline:
            try:
                if (await self._http.get("/health")).status_code == 200:
                    models = (await self._http.get("/v1/models")).json()["data"]
                    self.context = int(models[0]["max_model_len"])
                    return
            except httpx2.TransportError:  # not listening yet
                pass
            await asyncio.sleep(POLL_S)
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line]
        cause = (errors or lines or ["its log is empty."])[-1][-300:]
        text = f"vLLM did not start: {cause} Its log is {self._log}."
        raise busy_error(text, "engine_not_started", RETRY_S)

    async def stop(self) -> None:
        """Sends SIGTERM to its process group, and SIGKILL if it is still running after 5 s."""
        await self._http.aclose()
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + GRACE_S
            self._signal(number)
            while self.is_alive and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
        self._signal(signal.SIGKILL)  # its workers may have outlived it
        self._resources.close()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    @asynccontextmanager
    async def model(self, adapter: Path | None) -> AsyncIterator[str]:
        """Yields vLLM's name for the base with this adapter, which stays loaded until the block ends. Raises ApiError
        (404) if its files are gone."""
        if adapter is None:
            yield SERVED_BASE
            return
        self._in_use[adapter] += 1
        try:
            async with self._loading:
                name = await self._load(adapter)
            yield name
        finally:
            self._in_use -= Counter({adapter: 1})

    async def _load(self, adapter: Path) -> str:
        if not adapter.is_dir():
            await self._unload(adapter)
            raise adapter_gone_error(adapter)
        if adapter not in self._adapters:
            idle = [path for path in self._adapters if not self._in_use[path]]
            for path in idle[: max(0, len(self._adapters) + 1 - self.options.adapters)]:
                await self._unload(path)
            await asyncio.to_thread(check_adapter_files, adapter)
            self._loaded += 1
            name = f"adapter-{self._loaded}"
            await self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(adapter)})
            self._adapters[adapter] = name
        self._adapters.move_to_end(adapter)
        return self._adapters[adapter]

    async def _unload(self, adapter: Path) -> None:
        name = self._adapters.pop(adapter, None)
        if name is not None:
            await self._post("/v1/unload_lora_adapter", {"lora_name": name})

    async def completion(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the choice that POST /v1/completions answers with, and `cached_tokens` in it. Raises ApiError."""
        answer: dict[str, Any] = json.loads(await self._post("/v1/completions", body))
        choice: dict[str, Any] = answer["choices"][0]
        return {**choice, "cached_tokens": _cached_tokens(answer)}

    async def completion_parts(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Yields the parts of the choice as they are written, and `cached_tokens` in the last. Raises ApiError."""
        streaming = {**body, "stream": True, "stream_options": {"include_usage": True}}
        last: dict[str, Any] | None = None  # waits for the usage, which vLLM sends after it
        cached = 0
        try:
            async with self._http.stream("POST", "/v1/completions", json=streaming) as response:
                if response.status_code != 200:
                    raise _refused(response.status_code, (await response.aread()).decode(errors="replace"))
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        part = json.loads(line.removeprefix("data: "))
                        if "error" in part:
                            raise _refused(500, line)
                        cached = max(cached, _cached_tokens(part))
                        for choice in part["choices"]:
                            if choice["finish_reason"]:
                                last = choice
                            else:
                                yield choice
                if last is not None:
                    yield {**last, "cached_tokens": cached}
        except httpx2.TransportError as error:
            raise await self._ended_while_answering() from error

    async def _post(self, path: str, body: Mapping[str, Any]) -> str:
        try:
            response = await self._http.post(path, json=body)
        except httpx2.TransportError as error:
            raise await self._ended_while_answering() from error
        if response.status_code != 200:
            raise _refused(response.status_code, response.text)
        return response.text

    async def _ended_while_answering(self) -> ApiError:
        """Waits for the end of the process, which comes a moment after its connections break: before that, the next
        request would still be sent to it. Returns the error."""
        deadline = time.monotonic() + ENDING_S
        while self.is_alive and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        text = "vLLM ended while it answered. The next request starts it again: try again in a minute."
        return busy_error(text, ENDED, RETRY_S)


def _cached_tokens(answer: Mapping[str, Any]) -> int:
    """Returns how many of the prompt's tokens vLLM had read before. It leaves the field out if there are none."""
    usage = answer.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return int(details.get("cached_tokens") or 0)


def _refused(status: int, text: str) -> ApiError:
    """Returns vLLM's own error message as an ApiError."""
    try:
        error = json.loads(text.removeprefix("data: "))["error"]
        if isinstance(error, dict):
            error = error["message"]
        message = str(error)
    except (ValueError, KeyError, TypeError):
        message = text
    message = f"vLLM: {' '.join(message.split())[:500]}"
    if status < 500:
        return ApiError(400, message, "engine_refused")
    return ApiError(500, message, "generation_failed", kind="server_error")
