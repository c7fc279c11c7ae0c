"""`python -m trainers.local.export MODEL --to FORM --out FOLDER`: makes one export.

Exits with code 2 and a sentence if the export is refused, and with 1 if the exported model answers differently from our
server.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from trainers.export_folder import AnswersDiffer, ExportRefused, check_out
from trainers.export_formats import DTYPES, FORMATS
from trainers.local.export.sources import find_source

FOLDER = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.option("--to", type=click.Choice(list(FORMATS)), required=True)
@click.option("--out", type=FOLDER, required=True, help="The folder to write, new or empty.")
@click.option("--data", type=FOLDER, multiple=True, help="A trainer's data folder. Repeatable.")
@click.option("--tools", type=FOLDER, required=True, help="Folder for llama.cpp's converter.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Default: the base's.")
@click.option("--rows", type=FOLDER, help="Chat JSONL to check the export with. Default: the job's own rows.")
@click.option("--base-id", help="The base model's id on the hub, if the trainer has it as a folder.")
@click.option("--licence", help="The base model's licence, if its folder doesn't name it.")
@click.option("--repo", help="ORG/NAME to upload to, with --to hub.")
@click.option("--public", is_flag=True, help="Let everybody read the repo.")
@click.option("--facts", is_flag=True, help="Read the bot's measurements as JSON from standard input.")
def main(model: str, out: Path, data: tuple[Path, ...], public: bool, facts: bool, **options: Any) -> None:
    """Export a tuned model. MODEL is an ft:… name, also of a checkpoint, a job's id or a job's folder."""
    os.umask(0o022)
    # Our server answers in full precision, so that any difference comes from the export.
    os.environ["FINETUNE_DTYPE"] = "fp32"
    warnings.filterwarnings("ignore", category=FutureWarning)  # peft's, about transformers' names
    # bitsandbytes warns about missing kernels that no export needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # raises, so that half an export is deleted
    try:  # refuse the most frequent mistakes before torch is loaded
        find_source(model, data)
        check_out(out)
        from trainers.local.export.order import ExportOrder, RunMeasurements, Upload
        from trainers.local.export.pipeline import export

        measured = None
        if facts:
            measured = RunMeasurements.from_json(sys.stdin.read())
        upload = Upload(options.pop("repo"), public)
        order = ExportOrder(model, out=out, data=data, upload=upload, measured=measured, **options)
        export(order, lambda sentence: click.echo(sentence, err=True))
    except ExportRefused as refused:
        click.echo(f"export: {refused}", err=True)
        sys.exit(1 if isinstance(refused, AnswersDiffer) else 2)


if __name__ == "__main__":
    main()
