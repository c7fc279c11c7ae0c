"""`finetune engines [list | install NAME | remove NAME]`: lists, installs and removes third-party trainers."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import NoReturn

import click

from trainers.host import ENGINES_FOLDER
from trainers.local.engines.catalog import INSTALLABLE, Engine, Installation, find_installation
from trainers.local.engines.installation import InstallationFailed, install, remove

NAME = click.Choice(list(INSTALLABLE))
JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
LINE_INTERVAL_S = 10.0
ERASE_LINE = "\r\x1b[K"  # back to its beginning, and erase to its end


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path("data/trainer"),
    help="The trainer's data folder. Default: that of finetune.toml.",
)
@JSON
@click.pass_context
def main(context: click.Context, data: Path, as_json: bool) -> None:
    """List, install and remove other training engines. Each gets its own environment."""
    context.obj = data.absolute() / ENGINES_FOLDER
    if context.invoked_subcommand is None:
        show(context.obj, as_json)


@main.command("list")
@JSON
@click.pass_obj
def list_engines(root: Path, as_json: bool) -> None:
    """List the engines, whether they are installed, and what each can do."""
    show(root, as_json)


@main.command("install")
@click.argument("name", type=NAME)
@click.pass_obj
def install_engine(root: Path, name: str) -> None:
    """Install an engine, or continue an interrupted installation."""
    engine = INSTALLABLE[name]
    more = " (with CUDA about 4 GB more)"
    if engine.is_hosted:
        more = ""
    click.echo(
        f"Installing {engine.name} {engine.version} into {root / engine.name}. This takes about {engine.gigabytes} GB"
        f"{more} and {engine.minutes:g} minutes. Licence: {engine.licence}."
    )
    ticker = Ticker()
    try:
        installation = install(root, engine, ticker)
    except InstallationFailed as error:
        refuse(str(error))
    except KeyboardInterrupt:
        refuse("Stopped. Run the same command again to continue.")
    ticker.done()
    facts = f"{_facts(installation)}, {installation.seconds:,.0f} s"
    click.echo(f"{engine.name} {installation.version} is installed: {facts}.")


@main.command("remove")
@click.argument("name", type=NAME)
@click.pass_obj
def remove_engine(root: Path, name: str) -> None:
    """Delete an engine's environment. Models that it has trained are kept."""
    try:
        is_removed = remove(root, INSTALLABLE[name])
    except InstallationFailed as error:
        refuse(str(error))
    if is_removed:
        click.echo(f"{name} is removed.")
    else:
        click.echo(f"{name} is not installed; nothing was removed.")


def show(root: Path, as_json: bool) -> None:
    if as_json:
        facts = [_engine_json(root, engine) for engine in INSTALLABLE.values()]
        click.echo(json.dumps(facts, indent=2))
        return
    indent = " " * 14
    click.echo("builtin       always available: this trainer's own LoRA loop")
    for engine in INSTALLABLE.values():
        click.echo(f"{engine.name:<14}{_state(root, engine)}")
        click.echo(f"{indent}{engine.abilities}. Licence: {engine.licence}")


def _engine_json(root: Path, engine: Engine) -> dict[str, object]:
    """`installed` is null if the engine isn't installed. `present` is the version found in the environment, which may
    have been changed since the installation."""
    facts: dict[str, object] = {
        "name": engine.name,
        "version": engine.version,
        "installed": None,
        "present": None,
        "bytes": None,
        "abilities": engine.abilities,
        "licence": engine.licence,
    }
    installation = find_installation(root, engine)
    if installation:
        facts["installed"] = installation.version
        facts["present"] = installation.present_version
        facts["bytes"] = installation.bytes
    return facts


def _state(root: Path, engine: Engine) -> str:
    installation = find_installation(root, engine)
    if installation is None:
        half = ""
        if (root / engine.name / "env").exists():
            half = " (incomplete; the command continues it)"
        return (
            f"not installed{half} · finetune engines install {engine.name}: version {engine.version}, "
            f"about {engine.gigabytes} GB and {engine.minutes:g} minutes"
        )
    changed = ""
    if installation.present_version != installation.version:
        changed = f" (now {installation.present_version or 'gone'}: install it again)"
    return f"installed · {installation.version}{changed} · {_facts(installation)}"


def _facts(installation: Installation) -> str:
    gigabytes = installation.bytes / 1e9
    if "torch" not in installation.versions:
        return f"{gigabytes:.1f} GB"
    cuda = "CPU only"
    if installation.has_cuda:
        cuda = "with CUDA"
    return f"{gigabytes:.1f} GB, PyTorch {installation.versions['torch']} ({cuda})"


class Ticker:
    """Shows progress: on a terminal in one line that is rewritten, elsewhere in a new line every ten seconds."""

    def __init__(self) -> None:
        self._printed_at = 0.0

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if sys.stderr.isatty():
            click.echo(f"{ERASE_LINE}{text}", nl=False, err=True)
        elif now - self._printed_at >= LINE_INTERVAL_S:
            self._printed_at = now
            click.echo(text, err=True)

    def done(self) -> None:
        if sys.stderr.isatty():
            click.echo(ERASE_LINE, nl=False, err=True)


def refuse(sentence: str) -> NoReturn:
    if sys.stderr.isatty():
        click.echo(err=True)  # ends the line in which the progress stands
    plain = sentence.replace("`", "")
    click.echo(plain, err=True)
    sys.exit(2)


if __name__ == "__main__":
    main(prog_name="finetune engines")
