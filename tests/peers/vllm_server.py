"""Stands in for vLLM's command line: the part of its server that our engine uses, with transformers and peft behind it,
which answers one request after the other. Its arguments are `serve BASE --uds PATH …`

A prompt with the word "die" ends the process, as a fault in vLLM would."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainers.local.peft import PeftModel
from trainers.local.serving.constraints import Guide
from trainers.local.serving.vocabulary import Vocabulary

CONTEXT = 2048


class Model:
    """The base, and adapters by the names they were loaded with."""

    def __init__(self, base: str, logprobs_mode: str) -> None:
        self.logprobs_mode = logprobs_mode
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base)
        self.base: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        self.peft: Any = None
        self.adapters: dict[str, str] = {}

    def load(self, name: str, path: str) -> None:
        if self.peft is None:
            self.peft = PeftModel.from_pretrained(self.base, path, adapter_name=name)
        else:
            self.peft.load_adapter(path, adapter_name=name)
        self.adapters[name] = path

    @torch.inference_mode()
    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        model = self.base
        if self.peft is not None:
            model = self.peft
            if body["model"] == "base":
                model.base_model.disable_adapter_layers()
            else:
                model.base_model.enable_adapter_layers()
                model.set_adapter(body["model"])
        guide = self._guide(body)
        dice = torch.Generator().manual_seed(body["seed"])
        tokens: list[int] = []
        logprobs: list[torch.Tensor] = []
        reason = "length"
        while len(tokens) < body["max_tokens"]:
            ids = torch.tensor([[*body["prompt"], *tokens]])
            logits = model(input_ids=ids).logits[0, -1].float()
            heat = 1.0
            if self.logprobs_mode == "processed_logprobs":
                heat = body["temperature"] or 1.0
            logprobs.append(torch.log_softmax(logits / heat, -1))
            if guide:
                logits = logits.masked_fill(~guide.allowed_tokens(), -torch.inf)
            token = _draw(logits, body, dice)
            tokens.append(token)
            if token in body["stop_token_ids"]:
                reason = "stop"
                break
            if guide:
                guide.accept(token)
            if any(stop in self.tokenizer.decode(tokens) for stop in body["stop"]):
                reason = "stop"
                break
        choice: dict[str, Any] = {"index": 0, "text": "", "finish_reason": reason, "token_ids": tokens}
        return {**choice, "logprobs": _named(tokens, logprobs, body.get("logprobs"))}

    def _guide(self, body: dict[str, Any]) -> Guide | None:
        grammar = (body.get("structured_outputs") or {}).get("grammar")
        ends = frozenset(body["stop_token_ids"])
        width = int(self.base.config.vocab_size)
        return Vocabulary(self.tokenizer, ends, width).guide(grammar) if grammar else None


def _draw(logits: torch.Tensor, body: dict[str, Any], dice: torch.Generator) -> int:
    for token, bias in (body.get("logit_bias") or {}).items():
        logits[int(token)] += bias
    if body["temperature"] == 0:
        return int(logits.argmax())
    chances, order = torch.softmax(logits / body["temperature"], -1).sort(descending=True)
    chances[chances.cumsum(-1) - chances > body["top_p"]] = 0
    return int(order[torch.multinomial(chances, 1, generator=dice)])


def _named(tokens: list[int], logprobs: list[torch.Tensor], most: int | None) -> dict[str, Any] | None:
    if most is None:
        return None
    tops = [row.topk(most) for row in logprobs]
    named = [
        {f"token_id:{i}": v for v, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)}
        for top in tops
    ]
    chosen = [float(row[token]) for token, row in zip(tokens, logprobs, strict=True)]
    names = [f"token_id:{token}" for token in tokens]
    return {"tokens": names, "token_logprobs": chosen, "top_logprobs": named}


def app_of(model: Model, key: str) -> Starlette:
    async def health(request: Request) -> Response:
        return Response()

    async def models(request: Request) -> Response:
        return JSONResponse({"data": [{"id": "base", "max_model_len": CONTEXT}]})

    async def load(request: Request) -> Response:
        body = await request.json()
        if not Path(body["lora_path"], "adapter_config.json").exists():
            return JSONResponse({"error": {"message": "No adapter found"}}, 404)
        await run_in_threadpool(model.load, body["lora_name"], body["lora_path"])
        return Response("Success")

    async def unload(request: Request) -> Response:
        name = (await request.json())["lora_name"]
        model.peft.delete_adapter(name)
        del model.adapters[name]
        return Response("Success")

    async def complete(request: Request) -> Response:
        if request.headers["authorization"] != f"Bearer {key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        body = await request.json()
        if body["model"] not in ("base", *model.adapters):
            return JSONResponse({"error": {"message": f"The model `{body['model']}` does not exist."}}, 404)
        if "die" in model.tokenizer.decode(body["prompt"]).split():
            os._exit(3)
        choice = await run_in_threadpool(model.answer, body)
        if not body.get("stream"):
            return JSONResponse({"choices": [choice]})
        return StreamingResponse(_events(choice), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/load_lora_adapter", load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", unload, methods=["POST"]),
            Route("/v1/completions", complete, methods=["POST"]),
        ]
    )


def _events(choice: dict[str, Any]) -> Any:
    count = len(choice["token_ids"])
    for place in range(count):
        logprobs = choice["logprobs"] and {k: v[place : place + 1] for k, v in choice["logprobs"].items()}
        reason = choice["finish_reason"] if place == count - 1 else None
        part = {"index": 0, "text": "", "finish_reason": reason, "token_ids": [choice["token_ids"][place]]}
        yield f"data: {json.dumps({'choices': [{**part, 'logprobs': logprobs}]})}\n\n"
    yield "data: [DONE]\n\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("base")
    parser.add_argument("--uds", required=True)
    parser.add_argument("--logprobs-mode", default="raw_logprobs")
    arguments, _ = parser.parse_known_args()
    torch.set_num_threads(1)
    uvicorn.run(
        app_of(Model(arguments.base, arguments.logprobs_mode), os.environ["VLLM_API_KEY"]),
        uds=arguments.uds,
        log_level="warning",
    )
