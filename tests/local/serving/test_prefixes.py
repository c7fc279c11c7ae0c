"""What is kept of earlier prompts: it is usual again, bounded and dropped, and no answer changes by it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from tests.local.families import FAMILIES, HYBRIDS, ONE_BY_ONE, make_family
from tests.local.reference import TICKETS, load_reference
from tests.local.serving.test_batches import Caller, ask, make_adapter
from trainers.http.errors import ApiError
from trainers.local.serving import prefixes
from trainers.local.serving.answers import Preparation
from trainers.local.serving.decoding import decode
from trainers.local.serving.generator import Generator
from trainers.local.serving.model_cache import Base
from trainers.local.serving.prefixes import CachedPrefix, PrefixStore, common_length, groups_that_begin_alike
from trainers.local.serving.sequences import Row
from trainers.local.serving.values import AnswerEnd, Ids, Piece, Request, Sampling, Target

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
LIMIT = 8
LONG: Ids = tuple(20 + n * 7 % 90 for n in range(120))
# Families whose layers keep every token, have a window of 64 tokens, a state, or positions that a longer row stretches.
TRIED = (
    "llama-3",
    "phi-4-mini",
    "gpt-oss",
    "gemma-4",
    "qwen-3.5",
    "lfm-2",
    "falcon-h1",
    "mamba-2",
    "deepseek-v4",
)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")


def make_rows(
    base: Base, prompts: Sequence[Ids], adapter: Path | None = None, limit: int = LIMIT
) -> list[Row]:
    rows = []
    for prompt in prompts:
        sampling = Sampling(0, 1, limit, (), None)
        pending = Request(Target(base._source, adapter), (), sampling, False, Caller().outcomes.put)
        rows.append(Row(pending, 0, Preparation(list(prompt), limit, None, None), base.vocabulary))
    return rows


def answers_of(base: Base, prompts: Sequence[Ids], adapter: Path | None = None) -> list[Row]:
    base.ensure_adapter(adapter, ())
    rows = make_rows(base, prompts, adapter)
    decode(base, rows, lambda _: ())
    return rows


def conversation(first_answer: Sequence[int]) -> list[list[Ids]]:
    """Batches of prompts, most of which begin as earlier ones did."""
    return [
        [(*LONG, 11, 12)],
        [(5, 6, 7)],
        [(*LONG, 11, 12, *first_answer, *range(30, 50))],
        [(*LONG, 13)],
        [(*LONG, 14, 15)],
        [(*LONG[:90], 16)],
        [(*LONG, 17), (*LONG, 18, 19), (8, 9), tuple(range(150, 260)), (*range(150, 260), 3)],
        [(*LONG, *LONG, 20)],
        [(*LONG, *LONG, 21), (*LONG, 22)],
    ]


@pytest.mark.deep
@pytest.mark.parametrize("family", TRIED)
def test_no_answer_changes_by_what_is_kept(family: str, tmp_path: Path) -> None:
    folder = make_family(tmp_path / "base", (FAMILIES | HYBRIDS | ONE_BY_ONE)[family])
    keeping = Base(str(folder), "none", torch.device("cpu"))
    forgetful = Base(str(folder), "none", torch.device("cpu"))
    forgetful.keeps_prefixes = False
    (first,) = answers_of(forgetful, [(*LONG, 11, 12)])
    cached = []
    for prompts in conversation(first.tokens):
        forgetful.prefixes.clear()
        expected = [row.tokens for row in answers_of(forgetful, prompts)]
        rows = answers_of(keeping, prompts)
        assert [row.tokens for row in rows] == expected
        cached.append([row.cached_tokens for row in rows])
    if family == "deepseek-v4":
        assert max(map(max, cached)) == 0
        return
    assert cached[0] == cached[1] == [0]
    assert cached[4] == [len(LONG)]


def test_adapters_share_no_prefix(babbling_model_dir: Path, tmp_path: Path) -> None:
    base = Base(str(babbling_model_dir), "none", torch.device("cpu"))
    adapters = [make_adapter(babbling_model_dir, tmp_path / f"ftjob-{n}" / "adapter", n) for n in range(2)]
    for adapter in (*adapters, None):
        (row,) = answers_of(base, [LONG], adapter)
        assert row.cached_tokens == 0
    for adapter in (*adapters, None):
        (row,) = answers_of(base, [(*LONG, 4)], adapter)
        assert row.cached_tokens == len(LONG)
    base.prefixes.drop(adapters[0])
    assert [answers_of(base, [LONG], adapter)[0].cached_tokens for adapter in adapters] == [0, len(LONG) - 1]


def test_an_answer_that_goes_on_is_kept_with_its_prompt(babbling_model_dir: Path) -> None:
    base = Base(str(babbling_model_dir), "none", torch.device("cpu"))
    (row,) = make_rows(base, [LONG], limit=90)
    decode(base, [row], lambda _: ())
    assert len(row.tokens) > prefixes.MIN_TOKENS_KEPT
    (going_on,) = answers_of(base, [(*LONG, *row.tokens, 9)])
    assert going_on.cached_tokens >= len(LONG) + len(row.tokens) - 1


def filled(ids: Ids, *, can_cut: bool = True) -> CachedPrefix:
    """A prefix with one layer of 8 bytes a token."""
    cache = DynamicCache()
    states = torch.zeros(1, 1, len(ids), 1)
    cache.update(states, states.clone(), 0)
    return CachedPrefix(ids, cache, can_cut)


def numbers(start: int, size: int = 20) -> Ids:
    return tuple(range(start, start + size))


def test_the_least_recently_used_prefix_goes_first() -> None:
    store = PrefixStore(lambda held: 2 * 20 * 8)
    for start in (100, 200):
        store.keep(None, filled(numbers(start)))
    assert store.find(None, numbers(100, 30)).size == 20
    store.keep(None, filled(numbers(300)))
    assert store.nbytes == 2 * 20 * 8
    sizes = [store.find(None, numbers(start, 30)).size for start in (100, 200, 300)]
    assert sizes == [20, 0, 20]


def test_what_exceeds_the_room_alone_is_not_kept() -> None:
    store = PrefixStore(lambda held: 100)
    store.keep(None, filled(numbers(100)))
    assert store.nbytes == 0


def test_a_prefix_that_can_be_cut_replaces_its_beginnings() -> None:
    store = PrefixStore(lambda held: 10**6)
    store.keep(None, filled(numbers(100)))
    store.keep(None, filled(numbers(100, 40)))
    assert store.nbytes == 40 * 8
    assert store.find(None, numbers(100)).size == 19
    uncut = PrefixStore(lambda held: 10**6)
    uncut.keep(None, filled(numbers(100), can_cut=False))
    uncut.keep(None, filled(numbers(100, 40), can_cut=False))
    assert [uncut.find(None, numbers(100, size)).size for size in (19, 30, 41)] == [0, 20, 40]
    assert uncut.shared_length(None, (*numbers(100, 30), 1, 2)) == 30


def test_what_nobody_uses_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    store = PrefixStore(lambda held: 10**6)
    store.keep(None, filled(numbers(100)))
    assert not store.drop_unused()
    later = time.monotonic() + prefixes.UNUSED_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert store.drop_unused()
    assert store.nbytes == 0


def test_kept_prefixes_take_an_eighth_of_the_free_memory() -> None:
    assert prefixes.prefix_room(700, 100) == 100
    assert prefixes.prefix_room(None, 100) == prefixes.USUAL_BYTES


@pytest.mark.parametrize(
    ("first", "second", "common"),
    [((), (1,), 0), ((1, 2, 3), (1, 2, 9, 4), 2), ((1, 2), (1, 2, 5), 2), ((4,), (5,), 0)],
)
def test_common_tokens_are_counted(first: Ids, second: Ids, common: int) -> None:
    assert common_length(first, second) == common_length(second, first) == common


def test_prompts_are_grouped_so_that_most_is_read_once() -> None:
    examples = [(*numbers(100, 50), n) for n in range(4)]
    others = [(*numbers(500, 30), n) for n in range(3)]
    strangers: list[Ids] = [(1, 2, 3), (100, 101, 7)]
    groups = groups_that_begin_alike([*others, *strangers, *examples])
    assert sorted(map(len, groups)) == [1, 1, 3, 4]
    assert groups_that_begin_alike(examples) == [examples]


@pytest.fixture
def generator() -> Iterator[Generator]:
    generator = Generator()
    yield generator
    generator.stop()


def cached_of(caller: Caller) -> int:
    while True:
        outcome = caller.outcomes.get(timeout=60)
        assert not isinstance(outcome, ApiError)
        if isinstance(outcome, AnswerEnd):
            return outcome.cached_tokens
        assert isinstance(outcome, Piece)


def test_forgotten_texts_are_read_again(generator: Generator, babbling_model_dir: Path) -> None:
    target = Target(str(babbling_model_dir), None)
    counts = [cached_of(ask(generator, target, ticket)) for ticket in TICKETS[:2]]
    assert counts[0] == 0 < counts[1]
    generator.forget_texts()
    assert cached_of(ask(generator, target, TICKETS[2])) == 0


def test_too_little_memory_for_an_answer_drops_what_is_kept(
    generator: Generator, babbling_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(str(babbling_model_dir), None)
    ask(generator, target, TICKETS[0]).answer()
    room = Generator._room
    calls: list[int] = []

    def scarce(self: Generator, base: Base) -> Any:
        calls.append(base.prefixes.nbytes)
        usual = room(self, base)
        if base.prefixes.nbytes:
            return type(usual)(usual.rows, 0)
        return usual

    monkeypatch.setattr(Generator, "_room", scarce)
    assert ask(generator, target, TICKETS[1]).answer() == load_reference(babbling_model_dir).answer(
        TICKETS[1]
    )
    assert calls[0] > 0 == calls[1]
