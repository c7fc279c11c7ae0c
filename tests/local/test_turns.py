"""How answers and trainings take turns, and that a training which waits ends with the same result to the last byte."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.local.reference import TICKETS, load_reference
from tests.local.runs import adapter_bytes, make_job, read_results, write_ticket_rows
from tests.local.serving.test_batches import ask
from trainers.local import turns
from trainers.local.serving.generator import Generator
from trainers.local.serving.values import Target
from trainers.local.train import run_training
from trainers.local.training.errors import TrainingPaused
from trainers.local.turns import AnswerTurns, Lock, TrainingTurns, training_turns
from trainers.methods import Parameters


def do_nothing() -> None: ...


def waited(work: Callable[[], None]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def test_a_training_waits_for_answers_as_long_as_it_has_computed(tmp_path: Path) -> None:
    answering = AnswerTurns(tmp_path)
    training = TrainingTurns(tmp_path)
    answering.begin()
    answering.begin_pass()
    answering.end_pass()
    training.take(do_nothing)  # it has computed nothing yet
    assert answering.is_training()
    training._began = time.monotonic() - 0.3
    assert waited(lambda: training.take(do_nothing)) > 0.25
    assert training._saved_s < 0.05
    answering.end()
    training._began = time.monotonic() - 60
    training.take(do_nothing)
    assert training._saved_s == pytest.approx(turns.MOST_SAVED_S, abs=1)


def test_the_wait_ends_with_the_answers_or_with_a_pause(tmp_path: Path) -> None:
    answering = AnswerTurns(tmp_path)
    training = TrainingTurns(tmp_path)
    training.take(do_nothing)
    answering.begin()
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 3:
            answering.end()

    training._began = time.monotonic() - 60
    training.take(look)
    assert len(looks) == 3

    def pause() -> None:
        raise TrainingPaused

    answering.begin()
    training._began = time.monotonic() - 60
    with pytest.raises(TrainingPaused):
        training.take(pause)
    assert not answering.is_training()


def test_an_answer_waits_for_a_part_but_not_for_a_long_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "LONGEST_PART_S", 0.1)
    answering = AnswerTurns(tmp_path)
    training = Lock(tmp_path / "training")
    training.take(shared=True)
    other = Lock(tmp_path / "training")
    assert other.take(shared=True)
    answering.wait()
    assert not answering.is_training()  # it goes on beside them
    training.release()
    assert not answering.is_training()
    other.release()
    assert not answering.is_training()
    training.take(shared=True)
    assert answering.is_training()


def test_a_training_that_wants_to_compute_waits_for_the_end_of_a_pass(tmp_path: Path) -> None:
    answering = AnswerTurns(tmp_path)
    training = TrainingTurns(tmp_path)
    answering.begin()
    answering.begin_pass()
    looks: list[bool] = []

    def look() -> None:
        looks.append(answering.is_training())
        if len(looks) == 3:
            answering.end_pass()

    training.take(look)  # it has no time saved up, so it doesn't wait for all questions
    assert looks == [True, True, True]


def test_nobody_takes_turns_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    answering = AnswerTurns(None)
    answering.begin()
    answering.end()
    assert not answering.is_training()
    monkeypatch.delenv(turns.VARIABLE, raising=False)
    assert training_turns() is None


@pytest.fixture
def questions(tmp_path: Path) -> Iterator[Path]:
    """A folder whose answers lock is held most of the time, as by a server with many questions."""
    folder = tmp_path / "turns"
    answering = AnswerTurns(folder)
    stopping = threading.Event()

    def go_on() -> None:
        while not stopping.is_set():
            answering.begin()
            stopping.wait(0.05)
            answering.end()
            stopping.wait(0.005)

    thread = threading.Thread(target=go_on)
    thread.start()
    yield folder
    stopping.set()
    thread.join()


@pytest.mark.usefixtures("exact_numbers")
def test_a_training_beside_questions_has_the_same_result(
    tmp_path: Path, tiny_model_dir: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_ticket_rows(tmp_path / "train.jsonl", 24)
    settings = Parameters(n_epochs=2, batch_size=4, lora_dropout=0.1)
    for name in ("alone", "beside"):
        make_job(tmp_path / name, tiny_model_dir, rows, settings)
    assert run_training(tmp_path / "alone") == 0
    waits: list[float] = []
    take = TrainingTurns.take

    def timed(self: TrainingTurns, check: Callable[[], None]) -> None:
        waits.append(waited(lambda: take(self, check)))

    monkeypatch.setattr(TrainingTurns, "take", timed)
    monkeypatch.setenv(turns.VARIABLE, str(questions))
    assert run_training(tmp_path / "beside") == 0
    assert adapter_bytes(tmp_path / "beside") == adapter_bytes(tmp_path / "alone")
    losses = [[row["train_loss"] for row in read_results(tmp_path / name)] for name in ("alone", "beside")]
    assert losses[0] == losses[1]
    assert sum(waits) > 0.01


def test_answers_beside_a_training_are_the_same(tmp_path: Path, babbling_model_dir: Path) -> None:
    folder = tmp_path / "turns"
    training = TrainingTurns(folder)
    generator = Generator(turns=folder)
    stopping = threading.Event()

    def train() -> None:
        while not stopping.is_set():
            training.take(do_nothing)
            time.sleep(0.01)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        target = Target(str(babbling_model_dir), None)
        alone = load_reference(babbling_model_dir)
        answers = [ask(generator, target, ticket).answer() for ticket in TICKETS[:3]]
        assert answers == [alone.answer(ticket) for ticket in TICKETS[:3]]
    finally:
        stopping.set()
        thread.join()
        generator.stop()
