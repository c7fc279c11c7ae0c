"""`--to vllm`: copies the adapter in peft's layout, and writes the command that starts vLLM with it."""

from __future__ import annotations

import json
import shlex
import shutil
import stat
from pathlib import Path
from typing import Any

from trainers.export_folder import ExportRefused
from trainers.local.engines.vllm import adapter_refusal, vllm_rank
from trainers.local.export.agreement import compare_answers
from trainers.local.export.order import (
    ADAPTER_DTYPE,
    ADAPTER_TOLERANCE,
    ExportOrder,
    Plan,
    PreparedExport,
    Say,
    WrittenExport,
)
from trainers.local.export.sources import CONFIG, WEIGHTS, Source
from trainers.local.export.weights import Base, load_with_adapter
from trainers.models.chat_templates import read_chat_template, thinking_switches


def plan(order: ExportOrder, source: Source, base: Base) -> Plan:
    check_vllm(source)
    return Plan(ADAPTER_DTYPE, 2 * (source.adapter / WEIGHTS).stat().st_size)


def write(prepared: PreparedExport, folder: Path, say: Say) -> WrittenExport:
    copy_adapter(prepared.source, prepared.base, folder / "adapter")
    command = vllm_command(prepared.source, prepared.base, prepared.name)
    script = folder / "serve.sh"
    text = f'#!/bin/sh\ncd "$(dirname "$0")" && exec {command} "$@"\n'
    script.write_text(text, encoding="utf-8")
    executable = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
    script.chmod(script.stat().st_mode | executable)
    loaded = load_with_adapter(prepared.base.folder, folder / "adapter")
    agreement = compare_answers(prepared, loaded, ADAPTER_TOLERANCE, say)
    usage = f"`./serve.sh` runs\n\n```\n{command}\n```\n\nThen request the model `{prepared.name}`."
    return WrittenExport([agreement], usage)


def read_config(source: Source) -> dict[str, Any]:
    """Reads peft's adapter_config.json."""
    config: dict[str, Any] = json.loads((source.adapter / CONFIG).read_text(encoding="utf-8"))
    return config


def copy_adapter(source: Source, base: Base, out: Path) -> None:
    """Copies weights and config. The config names the base by its hub id if it has one, else by its folder."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.adapter / WEIGHTS, out / WEIGHTS)
    config = read_config(source)
    config["base_model_name_or_path"] = base.hub_id or str(base.folder)
    text = json.dumps(config, indent=2)
    (out / CONFIG).write_text(text + "\n", encoding="utf-8")


def check_vllm(source: Source) -> None:
    """Raises ExportRefused if there is no adapter, or vLLM can't load it."""
    if source.is_model:
        raise ExportRefused(
            f"{source.name} was trained with all its weights, so it has no adapter. Export it with --to merged, and "
            "start vLLM in that folder."
        )
    reason = adapter_refusal(read_config(source))
    if reason:
        raise ExportRefused(f"{reason} Export it with --to merged.")


def vllm_command(source: Source, base: Base, name: str) -> str:
    """Returns the command, one line for a shell in the export's folder."""
    rank = vllm_rank(read_config(source))
    model = shlex.quote(base.hub_id or str(base.folder))
    adapter = f"{shlex.quote(name)}=./adapter"
    command = f"vllm serve {model} --enable-lora --max-lora-rank {rank} --lora-modules {adapter}"
    # Without these switches a base that can think would do so, unlike when it was measured.
    switches = thinking_switches(read_chat_template(base.folder))
    if switches:
        quoted = shlex.quote(json.dumps(switches))
        command += f" --default-chat-template-kwargs {quoted}"
    return command
