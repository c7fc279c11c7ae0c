"""The demo's last lines, read from the bot's database after the run."""

from __future__ import annotations

import html
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bot.cards.common.blocks import cut
from bot.cards.common.candidates import (
    STANDINGS,
    bar_share,
    candidate_name,
    counted_as_right,
    measure_title,
    quality,
    table_name,
)
from bot.cards.common.words import duration, p_value, points, score_with_interval
from bot.cards.training.result_comparison import partial_meaning
from bot.values.runs import RunResult
from demo.workspace import PostedMessage, WorkspaceError
from trainers.dataset import Report
from trainers.evaluation.results import Comparison, MeasuredCandidate
from trainers.money import usd_micros

WIDTH = 16
LONGEST_ANSWER = 70


@dataclass(frozen=True)
class Summary:
    """The outcome: `verdict` is the last estimate's headline, `comparison` was measured before the run, `answer` is
    what a program got from what was in use, and `refusal` what it got after the rollback."""

    comparison: Comparison
    result: RunResult
    verdict: str
    answer: str
    refusal: str
    database: Path
    adapter: Path

    def lines(self, timeline: Mapping[str, float]) -> list[str]:
        """Returns the lines to print. `timeline` has the seconds from the start to the end of each stage, in order."""
        result = self.result
        change = result.change
        counted = partial_meaning(result).strip() or counted_as_right(result.comparison)
        before = f"{score_with_interval(change.before)} {counted}"
        after = f"{score_with_interval(change.after)} {counted}"
        actual = usd_micros(result.actual_micros)
        estimated = usd_micros(result.estimated_micros)
        # The words of cards are mrkdwn, in which < is escaped.
        difference = html.unescape(f"{points(change.gain)}, {p_value(change.p)}")
        stages = [f"{name} {_clock(seconds)}" for name, seconds in timeline.items()]
        return [
            *self._comparison(),
            _line("base, prompted", f"{before} on {result.base.n} held-out rows"),
            _line("tuned", f"{after} on the same"),
            _line("difference", difference),
            _line("cost", f"{actual} (estimated {estimated})"),
            _line("a program got", cut(self.answer, LONGEST_ANSWER)),
            _line("after rollback", cut(self.refusal, LONGEST_ANSWER)),
            _line("training", duration(result.train_seconds)),
            _line("timeline", ", ".join(stages)),
            _line("database", str(self.database)),
            _line("adapter", str(self.adapter)),
        ]

    def _comparison(self) -> list[str]:
        """Returns a line for each alternative on the same rows, the tuned model last, then the verdict."""
        candidates = list(self.comparison.candidates)
        if self.result.comparison:
            candidates += self.result.comparison.of_kind("tuned")
        width = max(len(table_name(candidate.identity)) for candidate in candidates)
        measured = measure_title(self.comparison)
        bar = bar_share(self.comparison.bar)
        lines = [f"{measured} on the same {self.comparison.n} held-out rows:"]
        for candidate in candidates:
            lines.append(f"  {table_name(candidate.identity):{width}}  {_measured(candidate, bar)}")
        lines.append(_line("verdict", self.verdict))
        return [*lines, *self._against_untrained()]

    def _against_untrained(self) -> list[str]:
        """Returns a line comparing the tuned model with the best untrained alternative."""
        beside = self.result.comparison
        if beside is None or not beside.pairs:
            return []
        (pair,) = beside.pairs
        other = next(candidate for candidate in beside.candidates if candidate.kind != "tuned")
        name = candidate_name(other.identity)
        text = f"no clear difference from {name}"
        if pair.is_significant:
            order = "worse" if pair.better == other.identity else "better"
            text = f"clearly {order} than {name}, by {points(pair.difference).lstrip('+')}"
        elif other.is_free:
            text += f", which is free: use {name}"
        return [_line("the tuned model", text)]


def _line(name: str, text: str) -> str:
    return f"{name + ':':{WIDTH}} {text}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _measured(candidate: MeasuredCandidate, bar: str) -> str:
    standing = STANDINGS[candidate.standing]
    if candidate.standing == "undecided":
        standing = "can't tell whether it meets"
    return f"{quality(candidate)}, {standing} {bar}"


def summary(folder: Path, card: PostedMessage, verdict: str, answer: str, refusal: str) -> Summary:
    """Reads the run that `card` reports from the database, read-only, while the bot is running."""
    with _database(folder) as database:
        run = database.execute(
            "SELECT result, job_id FROM runs WHERE state = 'done' ORDER BY id DESC"
        ).fetchone()
        measured = database.execute(
            "SELECT result FROM measurements WHERE state = 'done' AND kind = 'ladder' ORDER BY id DESC"
        ).fetchone()
    if run is None or measured is None:
        raise WorkspaceError(f"the channel has a result ({card.text}), but the database has none")
    result, job_id = run
    (comparison,) = measured
    adapter = folder / "data" / "trainer" / "jobs" / str(job_id) / "adapter"
    if not (adapter / "adapter_model.safetensors").is_file():
        raise WorkspaceError(f"there is no adapter at {adapter}")
    return Summary(
        comparison=Comparison.from_json(comparison),
        result=RunResult.from_json(result),
        verdict=verdict,
        answer=answer,
        refusal=refusal,
        database=_path(folder),
        adapter=adapter,
    )


def has_labels(folder: Path) -> bool:
    """Returns True if the newest checked dataset has labels."""
    return _newest_report(folder).task == "labels"


def has_free_models(folder: Path) -> bool:
    """Returns True if free models can answer the newest checked dataset."""
    return _newest_report(folder).has_free_candidates


def _newest_report(folder: Path) -> Report:
    with _database(folder) as database:
        row = database.execute(
            "SELECT report FROM datasets WHERE state = 'ready' ORDER BY id DESC"
        ).fetchone()
    if row is None:
        raise WorkspaceError("the channel has a dataset that is ready, but the database has none")
    return Report.from_json(row[0])


def is_trained(folder: Path) -> bool:
    """Returns True if a training has produced a model."""
    with _database(folder) as database:
        return bool(database.execute("SELECT count(*) FROM models").fetchone()[0])


@contextmanager
def _database(folder: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"file:{_path(folder)}?mode=ro", uri=True)
    try:
        yield connection
    finally:
        connection.close()


def _path(folder: Path) -> Path:
    return folder / "data" / "finetune.db"
