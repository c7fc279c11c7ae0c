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

from trainers.host import child_environment
from trainers.json_values import from_object
from trainers.models.chat_templates import drops_answers, read_chat_template
from trainers.sizing.architecture import UNPACKED, Architecture, UnknownSize, read_config

MODEL_NAME = re.compile(r"[\w./-]{1,128}", re.ASCII)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}", re.ASCII)
# Suffixes of transformers' class names for models that generate text.
WRITERS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
# Families that could be trained, but that transformers' caches can't answer with in our server.
UNANSWERABLE = ("minimax", "rwkv")
HUB_TIMEOUT_S = 10
MOST_CONFIG_BYTES = 2**20
COUNTER_MODULE = "trainers.local.architecture"
COUNTER_TIMEOUT_S = 120


@dataclass(frozen=True)
class Preset:
    """A base model whose dimensions ship with this package (presets.toml).

    `model_class` is the name of transformers' class. `within` restricts LoRA to the submodules of this module, for
    models with other parts such as vision. `parameters` is the published count. `config` holds the keys of config.json
    that decide size and memory; `shape` is the resulting architecture, for families without a formula of their own.
    """

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
    """Finds a preset by hub id or alias, ignoring case."""
    wanted = name.lower()
    return next((preset for preset in presets() if wanted in (preset.hub_id.lower(), *preset.aliases)), None)


@dataclass(frozen=True)
class Base:
    """A base model's dimensions, and its preset if it has one."""

    name: str
    architecture: Architecture
    preset: Preset | None = None


def find_base(name: str, *, ask_the_hub: bool = True) -> Base | UnknownSize:
    """Finds a base model by `name`: a hub id, a preset's alias, or a folder. Without `ask_the_hub`, only presets and
    folders are searched. Returns UnknownSize with the reason if the model can't be sized."""
    preset = find_preset(name)
    if preset:
        return _base(preset.hub_id, preset.config, preset)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _base(name, _read(folder / "config.json", f"the folder {name}"))
    if not HUB_ID.fullmatch(name):
        names = [
            preset_name.lower() for preset in presets() for preset_name in (preset.hub_id, *preset.aliases)
        ]
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
        hint = ""
        if near:
            hint = f" Did you mean {near[0]}?"
        return UnknownSize(
            f"Unknown base model '{name[:80]}': it is neither a folder here nor a hub id like org/name.{hint}"
        )
    if not ask_the_hub:
        return UnknownSize(f"{name} is not a preset, and its config.json is not on this machine.")
    return _base(name, _fetch_config(name))


def why_not_served(name: str, source: str) -> str | None:
    """Returns why our trainer would refuse the base model `source` under this name, None if it wouldn't."""
    if not MODEL_NAME.fullmatch(name):
        return "a name has at most 128 letters, digits and . _ - /."
    return why_no_base(source)


def why_no_base(source: str) -> str | None:
    """Returns why our trainer can't load a base model from `source`. Returns None for a folder that holds a model and
    for anything shaped like a hub id; the hub itself is not asked."""
    try:
        folder = Path(source).expanduser()
    except RuntimeError:  # ~somebody, whom this machine doesn't know
        return f"{source} starts with a user whom this machine doesn't know."
    if folder.is_dir():
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return None
        return f"the folder {source} has no config.json with *.safetensors files beside it."
    if find_preset(source) or HUB_ID.fullmatch(source):
        return None
    return f"{source} is neither a folder here nor a hub id such as org/name."


def weights_refusal(source: str, stored: str) -> str:
    return (
        f"The base model {source} is stored in the format {stored}, so its weights can't be trained, only an adapter "
        "on top of them. Leave the method out, or use a copy in bfloat16."
    )


def why_untrainable(source: str, *, learns_all: bool = False) -> str | None:
    """Returns why our trainer can't train this base, or with `learns_all` not all its weights, judging by its folder or
    its cached files from the hub. Returns None if nothing rules it out, or if none of its files are on this machine."""
    preset = find_preset(source)
    if preset:
        source = preset.hub_id
    folder = Path(source).expanduser()
    if not (folder / "config.json").is_file():
        from huggingface_hub import try_to_load_from_cache

        if not HUB_ID.fullmatch(source):
            return None
        cached = try_to_load_from_cache(source, "config.json")
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    raw = _read(folder / "config.json", source)
    if isinstance(raw, UnknownSize):
        return None

    stored = (raw.get("quantization_config") or {}).get("quant_method")
    if stored and stored not in ("bitsandbytes", *UNPACKED):
        return (
            f"The base model {source} is stored in the format {stored}, on which LoRA can't be trained here. Use a "
            "copy in bfloat16; with quantization nf4 it takes a quarter of the memory."
        )
    if stored and learns_all:
        return weights_refusal(source, stored)
    classes = raw.get("architectures") or ()
    if raw.get("is_encoder_decoder") or (classes and not any(name.endswith(WRITERS) for name in classes)):
        kind = ", ".join(classes) or raw.get("model_type")
        return f"The base model {source} is a {kind}, which does not generate text. Choose a chat model."
    if family_refusal := refuse_family(source, str(raw.get("model_type"))):
        return family_refusal
    if not (folder / "tokenizer_config.json").is_file():
        return None
    template = read_chat_template(folder)
    if not template:
        return f"The base model {source} has no chat template, so it can't learn. Choose an instruct or chat model."
    if drops_answers(template):
        return (
            f"The chat template of the base model {source} drops the text of answers, so they can't be learnt. "
            "Choose another model."
        )
    return None


def refuse_family(source: str, family: str) -> str | None:
    """Returns why models of this family are not trained here, or None."""
    if family not in UNANSWERABLE:
        return None
    return (
        f"The base model {source} is of the family {family}, whose tuned models this trainer can't answer with. Choose "
        "another base model."
    )


def _base(
    name: str, raw: Mapping[str, Any] | UnknownSize, preset: Preset | None = None
) -> Base | UnknownSize:
    if isinstance(raw, UnknownSize):
        return raw
    architecture = (preset and preset.shape) or read_config(raw, name)
    if isinstance(architecture, UnknownSize) and architecture.is_unknown:
        architecture = _count(json.dumps(raw, sort_keys=True), name) or architecture
    if isinstance(architecture, UnknownSize):
        return architecture
    return Base(name, architecture, preset)


@cache
def _count(config: str, name: str) -> Architecture | UnknownSize | None:
    """Builds transformers' own class without weights and counts its parameters. This takes a few seconds in a child
    process, because this process must not import torch. Returns None if torch isn't installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    command = [sys.executable, "-m", COUNTER_MODULE]
    try:
        done = subprocess.run(
            command,
            input=config,
            capture_output=True,
            encoding="utf-8",
            timeout=COUNTER_TIMEOUT_S,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired:
        return UnknownSize(
            f"Counting the parameters of {name}: no result in {COUNTER_TIMEOUT_S} s. Try again."
        )
    if done.returncode:
        sentence = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return UnknownSize(f"The memory that {name} needs is unknown: {sentence.rstrip('.')}.")
    return from_object(Architecture, json.loads(done.stdout))


def _read(path: Path, whose: str) -> Mapping[str, Any] | UnknownSize:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return UnknownSize(
            f"There is no config.json in {whose}, so it is not a model. Name a folder that has one."
        )
    except (OSError, ValueError) as error:
        return UnknownSize(f"The config.json of {whose} can't be read: {error}. Download the model again.")
    if not isinstance(raw, Mapping):
        return UnknownSize(f"The config.json of {whose} is not a JSON object.")
    return raw


def _fetch_config(name: str) -> Mapping[str, Any] | UnknownSize:
    """Reads a config.json from the hub's cache on this machine, or else downloads it with a single request. The hub's
    own library is not used for that, because it retries for half a minute."""
    from huggingface_hub import get_token, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return _read(Path(cached), name)
    address = hf_hub_url(name, "config.json", endpoint=os.environ.get("HF_ENDPOINT"))
    token = get_token()
    headers = {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - https, or what HF_ENDPOINT says
    try:
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S) as answer:  # noqa: S310
            raw = json.loads(answer.read(MOST_CONFIG_BYTES))
    except HTTPError as error:
        return UnknownSize(_hub_refusal(name, error.code, error.headers.get("X-Error-Code", "")))
    except (OSError, ValueError) as error:
        reason: object = error
        if isinstance(error, URLError):
            reason = error.reason
        return UnknownSize(
            f"Downloading the config.json of {name}: {reason}. Check the network, or name a folder or a preset."
        )
    if not isinstance(raw, Mapping):
        return UnknownSize(f"The config.json of {name} is not a JSON object.")
    return raw


def _hub_refusal(name: str, status: int, code: str) -> str:
    if code == "GatedRepo":
        return f"{name} is gated: accept its terms on the hub, then run `hf auth login` or set HF_TOKEN."
    if code == "EntryNotFound":
        return f"{name} has no config.json on the hub, so transformers can't load it (is it a GGUF?)."
    if status in (401, 403, 404):
        return f"The hub has no public model {name}. Check the name, or set HF_TOKEN if the model is private."
    return f"The hub answered {status} for the config.json of {name}. Try again later, or name a folder or a preset."
