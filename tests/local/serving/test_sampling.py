"""The choice of tokens in a batch: each row by its own parameters, drawn as often as the model's chances say."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from trainers.local.serving import sampling
from trainers.local.serving.sampling import choose
from trainers.local.serving.values import Sampling

PLAIN = Sampling(temperature=1, top_p=1, max_tokens=None, stop=(), seed=None)
LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0, -torch.inf, 1.5])


@dataclass
class Row:
    sampling: Sampling
    prompt: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    allowed: Tensor | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.dice = torch.Generator().manual_seed(self.seed)

    def draw(self) -> float:
        return float(torch.rand(1, dtype=torch.float64, generator=self.dice))


def draws(row: Row, count: int = 4_000, logits: Tensor = LOGITS) -> Counter[int]:
    """How often each token is drawn, in batches of 100."""
    counts: Counter[int] = Counter()
    for number in range(count // 100):
        rows = [replace(row, seed=100 * number + place) for place in range(100)]
        counts.update(choice.token for choice in choose(rows, logits.expand(100, -1)))
    return counts


def assert_drawn_by(counts: Counter[int], chances: Sequence[float]) -> None:
    assert all(chances[token] for token in counts)
    tokens = [token for token, chance in enumerate(chances) if chance]
    total = counts.total()
    expected = [total * chances[token] for token in tokens]
    assert chisquare([counts[token] for token in tokens], expected).pvalue > 0.001


def softmax(logits: Tensor) -> list[float]:
    values: list[float] = torch.softmax(logits.double(), -1).tolist()
    return values


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_by_softmax(temperature: float) -> None:
    counts = draws(Row(replace(PLAIN, temperature=temperature)))
    assert_drawn_by(counts, softmax(LOGITS / temperature))


@pytest.mark.deep
def test_rare_tokens_of_a_large_vocabulary_are_drawn_as_often_as_they_should() -> None:
    logits = torch.zeros(200_000)
    logits[:100_000] = 1.0
    counts = draws(Row(PLAIN), logits=logits)
    halves = Counter(token // 100_000 for token in counts.elements())
    share = math.e / (1 + math.e)
    assert_drawn_by(halves, [share, 1 - share])


@pytest.mark.parametrize(
    ("limit", "staying"),
    [
        ({"top_p": 0.6}, {0, 7}),
        ({"top_p": 0.9}, {0, 1, 2, 7}),
        ({"top_k": 2}, {0, 7}),
        ({"top_k": 3}, {0, 1, 7}),
        ({"min_p": 0.3}, {0, 1, 7}),
        ({"top_k": 3, "top_p": 0.8}, {0, 7}),
        ({"top_k": 100}, {0, 1, 2, 3, 4, 5, 7}),
    ],
)
def test_limits_leave_the_likeliest_tokens(limit: dict[str, float], staying: set[int]) -> None:
    left = torch.full_like(LOGITS, -torch.inf)
    index = torch.tensor(sorted(staying))
    left[index] = LOGITS[index]
    assert_drawn_by(draws(Row(replace(PLAIN, **limit))), softmax(left))  # type: ignore[arg-type]


def test_a_nucleus_wider_than_usual_is_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = draws(Row(replace(PLAIN, top_p=0.9)))
    monkeypatch.setattr(sampling, "USUAL_NUCLEUS", 2)
    assert draws(Row(replace(PLAIN, top_p=0.9))) == usual


@pytest.mark.parametrize("change", [{"top_p": 0.0}, {"top_k": 1}, {"temperature": 0.0}])
def test_the_narrowest_limits_are_greedy(change: dict[str, float]) -> None:
    tied = torch.tensor([1.0, 3.0, 3.0, 0.0])
    assert draws(Row(replace(PLAIN, **change)), 100, tied) == {1: 100}  # type: ignore[arg-type]


def test_a_row_draws_the_same_alone_and_beside_others() -> None:
    kinds = [
        PLAIN,
        replace(PLAIN, temperature=0),
        replace(PLAIN, top_p=0.7),
        replace(PLAIN, top_k=4, min_p=0.01),
        replace(PLAIN, top_logprobs=2, frequency_penalty=0.5, logit_bias={3: 2.0}),
    ]
    logits = torch.randn(len(kinds), 8, generator=torch.Generator().manual_seed(5))
    for seed in range(20):
        rows = [Row(kind, tokens=[1, 1, 3], seed=seed) for kind in kinds]
        alone = [Row(kind, tokens=[1, 1, 3], seed=seed) for kind in kinds]
        together = [choice.token for choice in choose(rows, logits)]
        assert together == [
            choose([row], logits[number : number + 1])[0].token for number, row in enumerate(alone)
        ]


def test_penalties_and_biases_follow_their_formulas() -> None:
    greedy = replace(PLAIN, temperature=0)
    cases = [
        (replace(greedy, frequency_penalty=0.3), [0, 0], 7),  # 2 - 2 * 0.3 < 1.5
        (replace(greedy, frequency_penalty=0.2), [0, 0], 0),
        (replace(greedy, presence_penalty=0.6), [0, 0], 7),
        (replace(greedy, presence_penalty=0.4), [0, 0], 0),
        (replace(greedy, repetition_penalty=1.4), [0], 7),  # 2 / 1.4 < 1.5
        (replace(greedy, repetition_penalty=1.2), [0], 0),
        (replace(greedy, logit_bias={5: 5.5}), [], 5),
        (replace(greedy, logit_bias={5: 5.5}, presence_penalty=1), [5], 0),
    ]
    rows = [Row(kind, tokens=tokens) for kind, tokens, _ in cases]
    chosen = [choice.token for choice in choose(rows, LOGITS.expand(len(cases), -1))]
    assert chosen == [expected for _, _, expected in cases]


def test_the_repetition_penalty_counts_the_prompt_and_lowers_negative_logits() -> None:
    kind = replace(PLAIN, temperature=0, repetition_penalty=2.0)
    logits = torch.tensor([[-1.0, -1.5, -4.0]])
    assert choose([Row(kind, prompt=[0])], logits)[0].token == 1
    assert choose([Row(kind, tokens=[1])], logits)[0].token == 0


def test_a_grammar_forbids_and_the_logprobs_are_the_models_own() -> None:
    allowed = torch.tensor([False, True, True, False, False, False, False, False])
    kind = replace(PLAIN, temperature=0, top_logprobs=2, logit_bias={2: 3.0})
    other = replace(PLAIN, temperature=0, top_logprobs=0)
    first, second = choose([Row(kind, allowed=allowed), Row(other)], LOGITS.expand(2, -1))
    own = torch.log_softmax(LOGITS, -1)
    assert (first.token, second.token) == (2, 0)
    assert first.logprob == pytest.approx(float(own[2]))
    assert [token for token, _ in first.likeliest] == [0, 7]
    assert [value for _, value in first.likeliest] == pytest.approx([float(own[0]), float(own[7])])
    assert second.logprob == pytest.approx(float(own[0]))
    assert second.likeliest == []
