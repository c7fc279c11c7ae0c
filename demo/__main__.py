"""`python -m demo`: plays the whole story on this machine, in a Slack workspace in the browser or in the terminal."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from demo import extract
from demo.extract import Extraction
from demo.runner import Setting
from demo.story import Story, play

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option(
    "--story",
    type=click.Choice(["tickets", "extract"]),
    default="tickets",
    show_default=True,
    help="Sort tickets, or extract the team's own JSON from threads.",
)
@click.option("--data", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Your own file.")
@click.option("--text", help="Column with the text, for CSV.")
@click.option("--label", help="Column with the label, for CSV.")
@click.option("--epochs", type=click.IntRange(1, 50), help="Epochs of training (by default chosen by rule).")
@click.option("--stay", is_flag=True, help="Keep it running afterwards, to try it yourself.")
@click.option("--terminal", "in_terminal", is_flag=True, help="Use the terminal only, without the browser.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".demo"), show_default=True)
@click.option(
    "--model", type=click.Path(path_type=Path), default=Path(".cache/smollm2-135m"), show_default=True
)
def main(
    story: str,
    data: Path | None,
    text: str | None,
    label: str | None,
    epochs: int | None,
    stay: bool,
    in_terminal: bool,
    folder: Path,
    model: Path,
) -> None:
    """Play the whole story on this machine: no Slack account, no key, no GPU."""
    _end_on_signals()
    if story == "extract":
        if data or text or label:
            raise click.UsageError("--story extract has its own rows: leave out --data, --text and --label.")
        sys.exit(extract.play(Extraction(Setting(folder, model, stay, in_terminal), epochs)))
    sys.exit(play(Story(data, text, label, stay, in_terminal, folder, model, epochs)))


def _end_on_signals() -> None:
    """By default a signal would end only this process, and leave behind the bot, its trainer and local-slack."""
    for number in SIGNALS:
        # nohup has it ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, _: object) -> None:
    # A second signal would interrupt the ending of the others.
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
