"""`finetune export`: finds what the run measured, and starts the export as a process of its own."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import click

from bot.cli.common import load, refuse
from trainers.environment import HUB_KEYS, child_environment

FOLDER = click.Path(path_type=Path)
TRAINERS = ("trainer", "terminal-trainer")


@click.command()
@click.argument("model")
@click.option("--to", type=click.Choice(["merged", "gguf", "ollama", "vllm", "hub"]), required=True)
@click.option(
    "--out", type=FOLDER, help="A folder that doesn't exist yet, or is empty. Default: MODEL-FORM, here."
)
@click.option(
    "--data", type=FOLDER, multiple=True, help="The data folder of a trainer that was started by hand."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16", "q8_0"]),
    help="Number format of merged and GGUF weights. Default: the base's, in GGUF float16 for bfloat16.",
)
@click.option("--rows", type=FOLDER, help="Chat JSONL to check the export with. Default: the job's own rows.")
@click.option("--base-id", help="The base model's id on the hub, where it is a folder here.")
@click.option("--licence", help="The base model's licence, where its folder doesn't say it.")
@click.option("--repo", help="ORG/NAME to upload to, with --to hub; needs HF_TOKEN.")
@click.option("--public", is_flag=True, help="Everybody may read the repo.")
def export(
    model: str,
    to: str,
    out: Path | None,
    data: tuple[Path, ...],
    dtype: str | None,
    rows: Path | None,
    base_id: str | None,
    licence: str | None,
    repo: str | None,
    public: bool,
) -> None:
    """Write a tuned model for other programs: MODEL is tickets-7, ft:…, a checkpoint or a job's folder."""
    from bot.results import Refusal
    from bot.terminal.exporting import look_up

    if importlib.util.find_spec("torch") is None:
        refuse("Exporting needs the extra [local]: pip install 'finetune-bot[local]'")
    settings = load()
    found = look_up(settings, model)
    if isinstance(found, Refusal):
        refuse(found.text)
    roots = [*data, *(settings.data / name for name in TRAINERS)]
    out = out or Path(f"{_file_name(found.name or model)}-{to}")
    arguments = [found.model, "--to", to, "--out", str(out), "--tools", str(settings.data / "tools")]
    arguments += [part for root in roots for part in ("--data", str(root))]
    given = {"--dtype": dtype, "--rows": rows, "--base-id": base_id, "--licence": licence, "--repo": repo}
    arguments += [part for name, value in given.items() if value for part in (name, str(value))]
    arguments += ["--public"] * public + ["--facts"] * (found.facts is not None)
    done = subprocess.run(
        [sys.executable, "-m", "trainers.local.exporting", *arguments],
        input=json.dumps(found.facts) if found.facts is not None else "",
        text=True,
        env=child_environment(*HUB_KEYS, "PIP_"),
        check=False,
    )
    sys.exit(done.returncode)


def _file_name(model: str) -> str:
    return re.sub(
        r"[^\w.-]+", "-", Path(model).name if "/" in model and not model.startswith("ft:") else model
    )
