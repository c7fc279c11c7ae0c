"""Finds a base model's dimensions: in a preset, in a folder's config.json, or on the hub. Loads no weights."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from trainers.chat_templates import drops_answers, read_chat_template
from trainers.host import child_environment
from trainers.json_values import from_object
from trainers.sizing.architecture import UNPACKED, Architecture, Unsized, read_config

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}", re.ASCII)
# How the names of transformers' classes end that continue a text.
WRITERS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
HUB_TIMEOUT_S = 10
MOST_BYTES = 2**20
COUNTING, COUNTING_S = "trainers.local.architecture", 120


@dataclass(frozen=True)
class Preset:
    """A base model that is known beforehand. `hub_id` names it on the hub, `model_class` is transformers'. `within`:
    LoRA only below this module, where the model has other parts (vision). `parameters` as published. `config`:
    what of its config.json matters here; `shape`: what transformers' class of it has, for a family without a
    formula."""

    hub_id: str
    aliases: tuple[str, ...]
    model_class: str
    template: str
    target_modules: tuple[str, ...]
    context: int
    licence: str
    is_gated: bool
    parameters: int
    config: Mapping[str, Any]
    within: str | None = None
    shape: Architecture | None = None


@cache
def presets() -> tuple[Preset, ...]:
    text = resources.files("trainers").joinpath("presets.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text)["presets"]
    return tuple(from_object(Preset, {"hub_id": hub_id, **row}) for hub_id, row in rows.items())


def find_preset(name: str) -> Preset | None:
    """Finds a preset by hub id or alias, in any case of letters."""
    wanted = name.lower()
    return next((preset for preset in presets() if wanted in (preset.hub_id.lower(), *preset.aliases)), None)


@dataclass(frozen=True)
class Base:
    """A base model's dimensions, and its preset where it has one."""

    name: str
    architecture: Architecture
    preset: Preset | None = None


def find_base(name: str, *, ask_the_hub: bool = True) -> Base | Unsized:
    """Finds a base by `name`: a hub id, a preset's alias, or a folder. Without `ask_the_hub` only by what is on this
    machine."""
    preset = find_preset(name)
    if preset:
        return _base(preset.hub_id, preset.config, preset)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _base(name, _read(folder / "config.json", f"The folder {name}"))
    if not HUB_ID.fullmatch(name):
        names = [
            preset_name.lower() for preset in presets() for preset_name in (preset.hub_id, *preset.aliases)
        ]
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]}?" if near else ""
        return Unsized(
            f"I know no base model '{name[:80]}': there is no such folder, and it is no hub id like org/name.{hint}"
        )
    if not ask_the_hub:
        return Unsized(f"{name} is none of the presets, and its config.json does not lie here.")
    return _base(name, _fetch_config(name))


def why_no_base(source: str) -> str | None:
    """Says why our trainer takes no base from there. Returns None where it is a folder with a model, or is named as on
    the hub, which isn't asked."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return None
        return f"the folder {source} holds no config.json with *.safetensors beside it."
    if find_preset(source) or HUB_ID.fullmatch(source):
        return None
    return f"there is no folder {source}, and it is no hub id such as org/name either."


def why_untrainable(source: str) -> str | None:
    """Says why our trainer can't train this base, by what is on this machine: its folder, or its files from the hub.
    Returns None where nothing is known against it."""
    preset = find_preset(source)
    source = preset.hub_id if preset else source
    folder = Path(source).expanduser()
    if not (folder / "config.json").is_file():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source, "config.json") if HUB_ID.fullmatch(source) else None
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    raw = _read(folder / "config.json", source)
    if isinstance(raw, Unsized):
        return None

    stored = (raw.get("quantization_config") or {}).get("quant_method")
    if stored and stored not in ("bitsandbytes", *UNPACKED):
        return (
            f"The base model {source} is stored in the format {stored}, which LoRA is not trained on here. Name a copy "
            "in bfloat16; with quantization nf4 it takes a quarter of the memory."
        )
    classes = raw.get("architectures") or ()
    if raw.get("is_encoder_decoder") or (classes and not any(name.endswith(WRITERS) for name in classes)):
        kind = ", ".join(classes) or raw.get("model_type")
        return (
            f"The base model {source} is a {kind}, which does not go on writing a text. Choose a chat model."
        )
    if not (folder / "tokenizer_config.json").is_file():
        return None
    template = read_chat_template(folder)
    if not template:
        return f"The base model {source} has no chat template, so it can't learn. Choose an instruct or chat model."
    if drops_answers(template):
        return (
            f"The chat template of the base model {source} leaves the text of answers out, so that they can't be "
            "learnt. Choose another model."
        )
    return None


def _base(name: str, raw: Mapping[str, Any] | Unsized, preset: Preset | None = None) -> Base | Unsized:
    if isinstance(raw, Unsized):
        return raw
    architecture = (preset and preset.shape) or read_config(raw, name)
    if isinstance(architecture, Unsized) and architecture.is_unknown:
        architecture = _count(json.dumps(raw, sort_keys=True), name) or architecture
    return architecture if isinstance(architecture, Unsized) else Base(name, architecture, preset)


@cache
def _count(config: str, name: str) -> Architecture | Unsized | None:
    """Counts transformers' own class in a process of its own, some seconds, as this one is without torch; None where
    torch isn't installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    command = [sys.executable, "-m", COUNTING]
    try:
        done = subprocess.run(
            command, input=config, capture_output=True, text=True, timeout=COUNTING_S, env=child_environment()
        )
    except subprocess.TimeoutExpired:
        return Unsized(f"Counting the parameters of {name}: no answer in {COUNTING_S} s. Try again.")
    if done.returncode:
        sentence = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Unsized(f"The memory of {name} can't be worked out: {sentence.rstrip('.')}.")
    return from_object(Architecture, json.loads(done.stdout))


def _read(path: Path, whose: str) -> Mapping[str, Any] | Unsized:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Unsized(f"{whose} holds no config.json, so it is no model. Name the folder that holds one.")
    except (OSError, ValueError) as error:
        return Unsized(f"{whose} has a config.json that can't be read: {error}. Fetch the model again.")
    return (
        raw if isinstance(raw, Mapping) else Unsized(f"{whose} has a config.json that is no table of words.")
    )


def _fetch_config(name: str) -> Mapping[str, Any] | Unsized:
    """Reads a config.json from the hub's cache on this machine, else by one request: the hub's own library would try
    for half a minute."""
    from huggingface_hub import get_token, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return _read(Path(cached), name)
    address = hf_hub_url(name, "config.json", endpoint=os.environ.get("HF_ENDPOINT"))
    token = get_token()
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310 - https, or what HF_ENDPOINT says
    try:
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S) as answer:  # noqa: S310
            raw = json.loads(answer.read(MOST_BYTES))
    except HTTPError as error:
        return Unsized(_refusal(name, error.code, error.headers.get("X-Error-Code", "")))
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        return Unsized(
            f"Asking the hub for the config.json of {name}: {reason}. Check the network, or name a folder or a preset."
        )
    return raw if isinstance(raw, Mapping) else Unsized(f"The config.json of {name} is no table of words.")


def _refusal(name: str, status: int, code: str) -> str:
    if code == "GatedRepo":
        return (
            f"{name} is gated: accept its terms on the hub, then log in with `hf auth login` or set HF_TOKEN."
        )
    if code == "EntryNotFound":
        return f"{name} has no config.json on the hub: it is no model of transformers (a GGUF, perhaps)."
    if status in (401, 403, 404):
        return f"The hub has no model {name}, or it is private. Check the name; HF_TOKEN opens private ones."
    return f"The hub answered {status} for the config.json of {name}. Try again later, or name a folder or a preset."
