"""Asks models on behalf of the terminal's commands and waits for the answers. The terminal has its own database of
answers, so that a repetition is free. Our own trainer runs for as long as it is needed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bot.embedded_trainer import EmbeddedTrainer, own_keys, with_trainer_address
from bot.llm_client import LlmClient
from bot.services.common.provider_clients import open_trainers
from bot.services.measurement import evaluation_engine
from bot.services.measurement.evaluation_engine import Evaluation
from bot.settings import Settings
from bot.values.evaluations import CandidateProgress
from storage.database import DatabaseInUse, StorageError
from storage.store import Store
from trainers.client.client import Trainer

LOOK_S = 0.2
OWNER = "terminal"
PATIENCE_S = 3600.0


class AnswerTimeout(Exception):
    """No answer came within the session's patience."""


class ProgressListener(Protocol):
    """Called with the progress again and again; each text replaces the one before. `keep` prints a line that stays."""

    def __call__(self, text: str) -> None: ...

    def keep(self, text: str) -> None: ...


@dataclass(frozen=True)
class LlmSession:
    """What an evaluation in the terminal works with. `files` is the folder of the checked rows; `say` receives the
    progress; without any answer for `patience_s` the session gives up."""

    settings: Settings
    trainers: Mapping[str, Trainer]
    store: Store
    llm: LlmClient
    files: Path
    say: ProgressListener
    patience_s: float

    @property
    def folder(self) -> Path:
        """The folder for the evaluation's questions."""
        return self.files / "questions"


@contextmanager
def open_session(
    settings: Settings, files: Path, say: ProgressListener, *, own: bool, patience_s: float
) -> Iterator[LlmSession]:
    """With `own`, our own trainer runs while the session is open, if the settings have one. Raises StorageError if the
    database of answers can't be used."""
    embedded = None
    is_started_by_us = any(row.is_started_by_us for row in settings.providers)
    if own and settings.trainer.models and is_started_by_us:
        # A folder of its own, as the bot's trainer may be running in the other one.
        embedded = EmbeddedTrainer(settings.data / "terminal-trainer", settings.trainer.models)
        settings = with_trainer_address(settings, embedded)
    trainers = open_trainers(settings, own_keys(embedded))
    # For this user only, as questions and answers quote the user's rows.
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Not the bot's database, which a running bot keeps to itself.
    database = settings.data / "terminal.db"
    try:
        store = Store(database)
    except DatabaseInUse as error:
        raise StorageError(
            f"Another finetune baseline is using {database}: wait until it has finished."
        ) from error
    store.sent_questions.forget_before(time.time())  # a terminal has no budget to count them in
    llm = LlmClient(store, trainers, settings.providers, time.time)
    try:
        if embedded:
            embedded.start()
        yield LlmSession(settings, trainers, store, llm, files, say, patience_s)
    finally:
        # First, as its requests use the trainer and the store.
        llm.close()
        for trainer in trainers.values():
            trainer.close()
        if embedded:
            embedded.stop()
        store.close()


def wait_for_answers(
    session: LlmSession, evaluation: Evaluation, what: str = "questions answered"
) -> tuple[CandidateProgress, ...]:
    """Waits until every question is answered or declined, or its model has failed. Raises AnswerTimeout."""
    if not evaluation.keys:
        return ()
    candidates = [CandidateProgress(candidate, len(keys)) for candidate, keys in evaluation.keys.items()]
    models = [str(candidate.model) for candidate in evaluation.keys]
    most_settled = 0
    moved_at = time.monotonic()
    while True:
        answers = evaluation_engine.collect(session, evaluation, candidates)
        candidates = list(answers.candidates)
        missing = answers.all_missing
        # Candidates may share a question, which then counts once.
        of = len({key for candidate in answers.missing for key in evaluation.keys[candidate]})
        settled = of - len(missing)
        troubles = evaluation_engine.waiting_reasons(session, models)
        progress = f"{settled:,} of {of:,} {what}."
        if troubles:
            progress = f"{progress} {troubles}"
        session.say(progress)
        if not missing:
            return answers.candidates
        if settled > most_settled:
            most_settled = settled
            moved_at = time.monotonic()
        elif time.monotonic() - moved_at > session.patience_s:
            minutes = f"{session.patience_s / 60:.3g}"
            silence = f"No answer came for {minutes} {'minute' if minutes == '1' else 'minutes'}."
            go_on = "The answers so far are kept: run the same command to go on from there."
            raise AnswerTimeout(" ".join(filter(None, [silence, troubles, go_on])))
        evaluation_engine.ask(session, evaluation, answers.unasked)
        time.sleep(LOOK_S)
