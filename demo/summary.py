"""The demo's last lines, read from the bot's database after the run."""

from __future__ import annotations

import html
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

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
NO_NAMES: Mapping[str, str] = MappingProxyType({})


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
            line("base, prompted", f"{before} on {result.base.n} held-out rows"),
            line("tuned", f"{after} on the same"),
            line("difference", difference),
            line("cost", f"{actual} (estimated {estimated})"),
            line("a program got", cut(self.answer, LONGEST_ANSWER)),
            line("after rollback", cut(self.refusal, LONGEST_ANSWER)),
            line("training", duration(result.train_seconds)),
            line("timeline", ", ".join(stages)),
            line("database", str(self.database)),
            line("adapter", str(self.adapter)),
        ]

    @property
    def tuned(self) -> MeasuredCandidate:
        """The tuned model on the held-out rows. Raises WorkspaceError if it was compared with nothing."""
        if self.result.comparison is None:
            raise WorkspaceError("the result has no comparison with the alternatives")
        (tuned,) = self.result.comparison.of_kind("tuned")
        return tuned

    def _comparison(self) -> list[str]:
        """Returns a line for each alternative on the same rows, the tuned model last, then the verdict."""
        candidates = list(self.comparison.candidates)
        if self.result.comparison:
            candidates += self.result.comparison.of_kind("tuned")
        return [
            f"{measure_title(self.comparison)} on the same {self.comparison.n} held-out rows:",
            *candidate_lines(candidates, self.comparison.bar),
            line("verdict", self.verdict),
            *self._against_untrained(),
        ]

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
        return [line("the tuned model", text)]


def candidate_lines(
    candidates: Sequence[MeasuredCandidate], bar: float, names: Mapping[str, str] = NO_NAMES
) -> list[str]:
    """Returns a line for each candidate: its score with its interval, and whether it meets the bar. `names` are better
    names than the tables' own."""
    shown = []
    for candidate in candidates:
        name = table_name(candidate.identity)
        shown.append(names.get(name, name))
    width = max(map(len, shown))
    share = bar_share(bar)
    return [
        f"  {name:{width}}  {_measured(candidate, share)}"
        for name, candidate in zip(shown, candidates, strict=True)
    ]


def line(name: str, text: str) -> str:
    """Returns a line of the summary, with the text of all lines in one column."""
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
