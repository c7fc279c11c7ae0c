"""A base model's dimensions from a preset, a folder, or the hub, which here is a server on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from trainers.models.base_models import Base, find_base, find_preset, why_untrainable
from trainers.sizing.architecture import UnknownSize

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 384,
    "max_position_embeddings": 2048,
}


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: files below /resolve/main, faults with a code in a header."""

    answers: ClassVar[dict[str, tuple[int, str, str]]] = {
        "/org/small/resolve/main/config.json": (200, "", json.dumps(LLAMA)),
        "/org/gated/resolve/main/config.json": (403, "GatedRepo", ""),
        "/org/gguf/resolve/main/config.json": (404, "EntryNotFound", ""),
        "/org/busy/resolve/main/config.json": (503, "", ""),
        "/org/page/resolve/main/config.json": (200, "", "<html>"),
    }

    def do_GET(self) -> None:
        status, code, body = self.answers.get(self.path, (401, "RepoNotFound", ""))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_family_without_a_formula_is_counted_in_a_separate_process(tmp_path: Path) -> None:
    config = {**LLAMA, "model_type": "lfm2", "layer_types": ["conv", "full_attention"]}
    architecture = find_known(write_config(tmp_path, config)).architecture
    assert architecture.counted is not None
    assert {matrix.name for matrix, _ in architecture.matrices} >= {"in_proj", "q_proj", "w1"}


def find_known(name: str) -> Base:
    base = find_base(name)
    assert isinstance(base, Base)
    return base


def find_reason(name: str) -> str:
    """Returns why the model's size is unknown."""
    base = find_base(name)
    assert isinstance(base, UnknownSize)
    return base.sentence


def write_config(folder: Path, config: Any) -> str:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return str(folder)


def test_a_preset_is_known_by_its_short_name() -> None:
    base = find_known("mistral-7b")
    assert base.name == "mistralai/Mistral-7B-Instruct-v0.3"
    assert base.preset is find_preset(base.name)


def test_a_folder_is_read_by_its_config(tmp_path: Path) -> None:
    architecture = find_known(write_config(tmp_path, LLAMA)).architecture
    assert architecture.kv_heads == 4  # by default as many as heads
    assert architecture.parameters == 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64 + 2 * 384 * 64


def test_any_other_name_is_looked_up_on_the_hub(hub: str) -> None:
    assert find_known("org/small").architecture.hidden == 64


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("org/gated", "org/gated is gated: accept its terms on the hub"),
        ("org/gguf", "org/gguf has no config.json on the hub"),
        ("org/nobody", "The hub has no public model org/nobody"),
        ("org/busy", "The hub answered 503"),
        ("org/page", "Downloading the config.json of org/page: "),
    ],
)
def test_a_refusal_by_the_hub_is_reported(hub: str, name: str, reason: str) -> None:
    assert find_reason(name).startswith(reason)


def test_an_unreachable_hub_is_reported_unless_it_need_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "Connection refused. Check the network, or name a folder or a preset." in find_reason("org/small")
    offline = find_base("org/small", ask_the_hub=False)
    assert isinstance(offline, UnknownSize) and "Connection refused" not in offline.sentence


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "can't be read"),
        ("[]", "is not a JSON object"),
        ({"model_type": "t5"}, "which doesn't generate text"),
        ({"model_type": "made-at-home"}, "transformers has no class for the family 'made-at-home'"),
        ({**LLAMA, "hidden_size": None}, "it has no 'hidden_size'"),
        ({**LLAMA, "hidden_size": -1}, "its hidden_size is -1"),
        ({**LLAMA, "vocab_size": "384"}, "its vocab_size is '384'"),
        ({**LLAMA, "quantization_config": {"quant_method": "gptq"}}, "is already quantised (gptq)"),
        (
            {"model_type": "gemma3", "text_config": {**LLAMA, "model_type": "gemma3_text"}},
            "no 'vision_config'",
        ),
    ],
)
def test_an_unusable_config_is_reported(tmp_path: Path, config: Any, reason: str) -> None:
    assert reason in find_reason(write_config(tmp_path, config))


def test_an_empty_folder_and_a_wrong_name_are_reported(tmp_path: Path) -> None:
    assert "There is no config.json" in find_reason(str(tmp_path))
    assert find_reason("mistral7b").endswith("Did you mean mistral-7b?")
    assert find_reason("no such model!").startswith("Unknown base model")


WRITES = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
DROPS = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}"


def write_base(folder: Path, template: str = WRITES, **config: Any) -> str:
    (folder / "config.json").write_text(json.dumps({**LLAMA, **config}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return str(folder)


@pytest.mark.parametrize(
    ("template", "config", "why"),
    [
        (WRITES, {"quantization_config": {"quant_method": "gptq"}}, "stored in the format gptq"),
        (WRITES, {"architectures": ["BertForMaskedLM"]}, "a BertForMaskedLM, which does not generate text"),
        (WRITES, {"is_encoder_decoder": True}, "does not generate text"),
        ("", {}, "has no chat template"),
        (DROPS, {}, "drops the text of answers"),
        (
            WRITES,
            {"model_type": "minimax"},
            "of the family minimax, whose tuned models this trainer can't answer with",
        ),
    ],
)
def test_a_base_that_cannot_be_trained_is_recognised_by_its_files(
    tmp_path: Path, template: str, config: dict[str, Any], why: str
) -> None:
    assert why in str(why_untrainable(write_base(tmp_path, template, **config)))


def test_weights_that_are_stored_in_4_bits_can_have_an_adapter_only(tmp_path: Path) -> None:
    base = write_base(tmp_path, quantization_config={"quant_method": "bitsandbytes"})
    assert why_untrainable(base) is None
    assert "its weights can't be trained, only an adapter" in str(why_untrainable(base, learns_all=True))


@pytest.mark.parametrize("config", [{}, {"architectures": ["LlamaForCausalLM"]}])
def test_other_bases_can_be_trained(tmp_path: Path, config: dict[str, Any]) -> None:
    assert why_untrainable(write_base(tmp_path, **config)) is None
    assert why_untrainable("/nowhere") is None
    assert why_untrainable("org/never-fetched") is None
