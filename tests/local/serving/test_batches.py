"""The generator without HTTP: adapters in one batch, newcomers, a full queue, too little memory, deleted adapters."""

from __future__ import annotations

import logging
import queue
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache, LlamaForCausalLM

from tests.local.reference import SYSTEM, TICKETS, load_reference
from trainers import host
from trainers.http.errors import ApiError
from trainers.local.serving import answers, memory
from trainers.local.serving.answers import Preparation
from trainers.local.serving.generator import BatchLimits, Generator, choose_batch, fill_batch
from trainers.local.serving.sequences import Row
from trainers.local.serving.values import (
    AnswerEnd,
    ChatMessage,
    EmbeddingRequest,
    Outcome,
    Piece,
    Request,
    Sampling,
    Target,
    check_adapter_files,
    gpu_share,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module", autouse=True)
def in_float32() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_DTYPE", "fp32")
        yield


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, babbling_model_dir: Path) -> list[Path]:
    """The adapters of three jobs, which give different answers."""
    root = tmp_path_factory.mktemp("jobs")
    return [make_adapter(babbling_model_dir, root / f"ftjob-{n}" / "adapter", n) for n in range(3)]


def make_adapter(base: Path, folder: Path, seed: int, *, dora: bool = False) -> Path:
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    tuned: Any = get_peft_model(
        model,
        LoraConfig(
            r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False, use_dora=dora
        ),
    )
    tuned.save_pretrained(folder)
    return folder


@pytest.fixture
def generator() -> Iterator[Generator]:
    generator = Generator()
    yield generator
    generator.stop()


@dataclass
class Caller:
    """Receives the outcomes of one request."""

    outcomes: queue.SimpleQueue[Outcome] = field(default_factory=queue.SimpleQueue)

    def answer(self, n: int = 1) -> str:
        text, ended = "", 0
        while ended < n:
            outcome = self.outcomes.get(timeout=60)
            if isinstance(outcome, ApiError):
                raise outcome
            text += outcome.text if isinstance(outcome, Piece) else ""
            ended += isinstance(outcome, AnswerEnd)
        return text


def request(
    target: Target, ticket: str, limit: int, caller: Caller, n: int = 1, streams: bool = False
) -> Request:
    messages = (ChatMessage("system", SYSTEM), ChatMessage("user", ticket))
    sampling = Sampling(0, 1, limit, (), None, n)
    return Request(target, messages, sampling, streams, caller.outcomes.put)


def ask(generator: Generator, target: Target, ticket: str, limit: int = 12, n: int = 1) -> Caller:
    caller = Caller()
    generator.submit(request(target, ticket, limit, caller, n))
    return caller


@pytest.mark.deep
def test_a_batch_with_several_adapters_answers_like_each_alone(
    generator: Generator, babbling_model_dir: Path, adapters: Sequence[Path]
) -> None:
    base = str(babbling_model_dir)
    models, tickets = [*adapters, None], TICKETS[:3]
    callers = {
        (model, ticket): ask(generator, Target(base, model), ticket) for ticket in tickets for model in models
    }
    answers = {key: caller.answer() for key, caller in callers.items()}
    for model in models:
        alone = load_reference(babbling_model_dir, model)
        assert [answers[model, ticket] for ticket in tickets] == [alone.answer(ticket) for ticket in tickets]
    assert len(set(answers.values())) > 8


def test_adapters_that_peft_cannot_mix_are_answered_in_turn(
    generator: Generator, babbling_model_dir: Path, adapters: Sequence[Path], tmp_path: Path
) -> None:
    dora = make_adapter(babbling_model_dir, tmp_path / "ftjob-dora" / "adapter", 5, dora=True)
    models = [adapters[0], dora, None]
    callers = [ask(generator, Target(str(babbling_model_dir), model), TICKETS[1]) for model in models]
    answers = [caller.answer() for caller in callers]
    assert answers == [load_reference(babbling_model_dir, model).answer(TICKETS[1]) for model in models]


def test_a_short_question_is_answered_while_a_long_answer_is_written(
    generator: Generator, babbling_model_dir: Path
) -> None:
    target = Target(str(babbling_model_dir), None)
    alone = load_reference(babbling_model_dir)
    long = next(t for t in TICKETS if len(alone.answer(t, 120)) > 120)
    writer = Caller()
    generator.submit(request(target, long, 120, writer, streams=True))
    first = writer.outcomes.get(timeout=60)
    assert isinstance(first, Piece)
    assert ask(generator, target, TICKETS[1]).answer() == alone.answer(TICKETS[1])
    second = writer.outcomes.get(timeout=60)
    assert isinstance(second, Piece)
    assert first.text + second.text + writer.answer() == alone.answer(long, 120)


@pytest.mark.deep
def test_a_batch_that_runs_out_of_memory_is_halved_with_the_same_answers(
    generator: Generator,
    babbling_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    alone = load_reference(babbling_model_dir)
    expected = [alone.answer(ticket) for ticket in TICKETS]
    limit_memory(monkeypatch, rows=3)
    target = Target(str(babbling_model_dir), None)
    with caplog.at_level(logging.WARNING):
        callers = [ask(generator, target, ticket) for ticket in TICKETS]
        assert [caller.answer() for caller in callers] == expected
    assert "out of memory with 9 answers at a time; going on with 4" in caplog.text


def test_answers_without_a_limit_continue_in_smaller_batches_before_memory_ends(
    generator: Generator,
    babbling_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    target = Target(str(babbling_model_dir), None)
    endless = Sampling(0, 1, None, (), None, logit_bias={2: -100})  # so that the context ends the answer
    callers, calls = [Caller() for _ in range(2)], count()
    room = lambda self, _: BatchLimits(self._most_rows, 0 if next(calls) == 1 else 100_000)  # noqa: E731
    monkeypatch.setattr(Generator, "_room", room)
    with caplog.at_level(logging.WARNING):
        for caller in callers:
            messages = (ChatMessage("user", "x" * 1_980),)
            generator.submit(Request(target, messages, endless, False, caller.outcomes.put))
        first, second = (caller.answer() for caller in callers)
    assert first == second
    assert "out of memory with 2 answers at a time; going on with 1" in caplog.text


def test_an_answer_that_never_fits_in_memory_is_refused_for_now(
    generator: Generator, babbling_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, rows=0)
    with pytest.raises(ApiError) as caught:
        ask(generator, Target(str(babbling_model_dir), None), TICKETS[0]).answer()
    assert (caught.value.status, caught.value.code) == (503, "out_of_memory")
    assert caught.value.response().headers["retry-after"] == "30"


def limit_memory(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Makes memory run out, in the middle of the answers, if a model writes more than `rows` at a time."""
    forward, passes = LlamaForCausalLM.forward, []

    def limited(self: LlamaForCausalLM, input_ids: torch.Tensor, **more: Any) -> Any:
        passes.append(len(input_ids))
        if len(input_ids) > rows and (rows == 0 or len(passes) > 4):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, input_ids=input_ids, **more)

    monkeypatch.setattr(LlamaForCausalLM, "forward", limited)


def test_an_error_outside_any_request_fails_all_and_the_next_is_answered(
    generator: Generator, babbling_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(str(babbling_model_dir), None)
    assert ask(generator, target, TICKETS[0]).answer()
    for error in (ValueError("Expected a torch.device with a specified index"), SystemExit(3)):
        with monkeypatch.context() as patch:
            patch.setattr(memory, "limit_to_share", lambda *_, error=error: fail_with(error))
            with pytest.raises(ApiError) as caught:
                ask(generator, target, TICKETS[1]).answer()
        assert (caught.value.status, caught.value.code) == (500, "generation_failed")
        assert ask(generator, target, TICKETS[1]).answer()


def test_a_dead_thread_is_restarted_by_the_next_request(
    generator: Generator, babbling_model_dir: Path
) -> None:
    target = Target(str(babbling_model_dir), None)
    assert ask(generator, target, TICKETS[0]).answer()
    generator.stop()
    generator._stopping = False
    assert ask(generator, target, TICKETS[1]).answer()


def fail_with(error: BaseException) -> bool:
    raise error


@pytest.fixture
def small_queue(monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of answers that fill the queue."""
    monkeypatch.setattr(answers, "MAX_OPEN_ROWS", 64)
    return 64


def test_a_full_queue_refuses_and_says_when_to_retry(
    generator: Generator, babbling_model_dir: Path, small_queue: int
) -> None:
    target = Target(str(babbling_model_dir), None)
    callers = [ask(generator, target, TICKETS[0], 3, n=small_queue // 2) for _ in range(2)]
    with pytest.raises(ApiError) as caught:
        ask(generator, target, TICKETS[1])
    answer = caught.value.response()
    assert (answer.status_code, caught.value.code) == (503, "queue_full")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert f"{small_queue} answers are queued already; the limit is {small_queue}." in caught.value.message
    for caller in callers:
        caller.answer(n=small_queue // 2)
    assert ask(generator, target, TICKETS[1]).answer()


def test_an_answer_frees_its_place_in_the_queue_while_others_of_its_batch_go_on(
    generator: Generator, babbling_model_dir: Path, small_queue: int
) -> None:
    target = Target(str(babbling_model_dir), None)
    ask(generator, target, TICKETS[0], 1).answer()  # loads the model, so that the next two share a batch
    short = ask(generator, target, TICKETS[0], 1)
    long = ask(generator, target, TICKETS[1], 60, n=small_queue - 1)
    short.answer()
    ask(generator, target, TICKETS[0], 1).answer()
    long.answer(n=small_queue - 1)


@pytest.mark.deep
def test_answers_that_left_an_ongoing_batch_free_their_place_in_the_queue(
    generator: Generator, babbling_model_dir: Path, small_queue: int
) -> None:
    """Callers who ask again at once keep one batch going; longer answers let newcomers in."""
    target = Target(str(babbling_model_dir), None)
    callers = deque(ask(generator, target, TICKETS[n % 9], 12 + n % 8) for n in range(12))
    for n in range(small_queue + 12):
        callers.popleft().answer()
        callers.append(ask(generator, target, TICKETS[n % 9], 12 + n % 8))
    for caller in callers:
        caller.answer()


def test_a_request_whose_adapter_is_deleted_while_it_waits_fails_alone(
    generator: Generator, babbling_model_dir: Path, adapters: Sequence[Path], tmp_path: Path
) -> None:
    base, doomed = str(babbling_model_dir), tmp_path / "ftjob-doomed" / "adapter"
    shutil.copytree(adapters[0], doomed)
    busy = ask(generator, Target(base, None), TICKETS[1], 40)
    lost, other = (
        ask(generator, Target(base, doomed), TICKETS[1]),
        ask(generator, Target(base, None), TICKETS[2]),
    )
    shutil.rmtree(doomed.parent)
    with pytest.raises(ApiError) as caught:
        lost.answer()
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert caught.value.message == (
        "There is no adapter 'ftjob-doomed' on this trainer. It was deleted while the request waited."
    )
    assert busy.answer()
    assert other.answer()


def test_an_adapter_that_is_deleted_before_its_files_are_checked_is_not_called_damaged(
    tmp_path: Path,
) -> None:
    with pytest.raises(ApiError) as caught:
        check_adapter_files(tmp_path / "ftjob-doomed" / "adapter")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_a_damaged_adapter_is_named_and_the_others_answer(
    generator: Generator, babbling_model_dir: Path, adapters: Sequence[Path], tmp_path: Path
) -> None:
    base, folder = str(babbling_model_dir), tmp_path / "ftjob-hurt" / "adapter"
    shutil.copytree(adapters[0], folder)
    weights = folder / "adapter_model.safetensors"
    content_before = weights.read_bytes()
    for content, what in (
        (content_before[: len(content_before) // 2], "its file adapter_model.safetensors is not complete ("),
        (b"", "its file adapter_model.safetensors is not complete ("),
        (None, "its file adapter_model.safetensors is missing. Restore"),
    ):
        weights.unlink()
        if content is not None:
            weights.write_bytes(content)
        with pytest.raises(ApiError) as caught:
            ask(generator, Target(base, folder), TICKETS[1]).answer()
        assert (caught.value.status, caught.value.code) == (500, "adapter_damaged")
        assert caught.value.message.startswith(
            f"The adapter of this model (ftjob-hurt) can't be loaded: {what}"
        )
        assert ask(generator, Target(base, adapters[1]), TICKETS[1]).answer()
    weights.write_bytes(content_before)
    moved = folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(ApiError) as caught:
        ask(generator, Target(base, folder), TICKETS[1]).answer()
    assert caught.value.message.startswith(
        "The adapter of this model (ftjob-hurt) can't be loaded: its folder is missing. Restore"
    )
    moved.rename(folder)
    answers = [ask(generator, Target(base, each), TICKETS[1]).answer() for each in (folder, adapters[0])]
    assert answers[0] == answers[1]


def test_more_adapters_than_fit_in_memory_are_answered_in_turn(
    generator: Generator, babbling_model_dir: Path, adapters: Sequence[Path], tmp_path: Path
) -> None:
    base = str(babbling_model_dir)
    copies = [tmp_path / f"ftjob-{n}" / "adapter" for n in range(10)]
    for n, folder in enumerate(copies):
        shutil.copytree(adapters[n % 3], folder)
    callers = [ask(generator, Target(base, folder), TICKETS[1]) for folder in copies]
    texts = [caller.answer() for caller in callers]
    assert texts == [texts[n % 3] for n in range(10)]
    assert len(set(texts)) == 3


def test_a_tuned_model_refuses_embeddings(generator: Generator, adapters: Sequence[Path]) -> None:
    caller = Caller()
    generator.submit(EmbeddingRequest(Target("/nowhere", adapters[0]), ["hi"], caller.outcomes.put))
    with pytest.raises(ApiError) as caught:
        caller.answer()
    assert (caught.value.status, caught.value.code) == (404, "model_cannot_embed")


def row(prompt: int, limit: int = 10, base: str = "a", adapter: str | None = None) -> Row:
    pending = request(Target(base, Path(adapter) if adapter else None), "hi", limit, Caller())
    vocabulary: Any = None  # not used, since nothing is written
    return Row(pending, 0, Preparation([1] * prompt, limit, None, None), vocabulary)


def test_a_batch_starts_with_the_oldest_row_and_adds_similar_rows_of_its_base() -> None:
    rows = [row(50), row(400), row(60, base="b"), row(55, adapter="x"), row(40, adapter="y")]
    chosen = choose_batch(rows, BatchLimits(3, 10_000), can_mix=True)
    assert [each.prompt for each in chosen] == [[1] * 50, [1] * 55, [1] * 40]
    assert choose_batch(rows, BatchLimits(3, 10_000), can_mix=False) == [rows[0], rows[1]]


def test_a_batch_fits_in_the_memory_for_prompts_and_answers() -> None:
    rows = [row(50, 50) for _ in range(10)]
    assert len(choose_batch(rows, BatchLimits(16, 450), can_mix=True)) == 4
    assert choose_batch(rows, BatchLimits(16, 99), can_mix=True) == []
    assert len(fill_batch(rows[:2], rows[2:], BatchLimits(16, 450))) == 2


def test_a_batch_has_at_most_eight_adapters() -> None:
    rows = [row(50, adapter=f"job-{n}") for n in range(12)]
    assert len(choose_batch(rows, BatchLimits(16, 10**6), can_mix=True)) == 8


def test_bytes_per_token_are_those_of_the_cache(babbling_model_dir: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(babbling_model_dir)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.ones(1, 10, dtype=torch.long), cache=cache, use_cache=True)
    layers: list[Any] = list(cache.layers)
    size = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert 10 * memory.bytes_per_token(model.config, torch.float32) == size


def test_free_memory_is_linuxs_available_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8000 kB\nMemAvailable:    3000 kB\n", encoding="ascii")
    monkeypatch.setattr(host, "MEMINFO", meminfo)
    assert memory.free_bytes(torch.device("cpu")) == 3_072_000
    assert memory.tokens_that_fit(3_072_000, 1_000) == 1_024


def test_while_a_job_trains_serving_gets_less_than_half_of_a_gpu() -> None:
    assert gpu_share(is_training=True) < 0.5 < gpu_share(is_training=False)
