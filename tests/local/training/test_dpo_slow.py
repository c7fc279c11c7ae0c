"""SmolLM2-135M on 400 preference pairs about bank tickets: does it prefer the better answers to unseen questions?

Makes the demo's model in .cache, and needs ../shared/data/banking10. Takes about 10 minutes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.local.preferences import pair
from tests.local.runs import make_job
from tests.local.training.test_dpo import log_probabilities
from trainers.local.demo_model import make_demo_model
from trainers.local.train import run_training
from trainers.local.training.base_model import silence_peft_warning
from trainers.methods import Parameters

ROOT = Path(__file__).resolve().parents[3]
TICKETS = ROOT.parent / "shared" / "data" / "banking10"
MODEL = ROOT / ".cache" / "smollm2-135m"
TRAINED, HELD_OUT = 400, 100
RATE = 2e-4  # eight times what "auto" says: 50 steps are few


def write_pairs(path: Path, tickets: Path, count: int) -> Path:
    """The right label before a wrong one. Wrong labels are the right ones shuffled, so that no label is preferred."""
    rows = [json.loads(line) for line in tickets.read_text(encoding="utf-8").splitlines()[:count]]
    right = [row["messages"][-1]["content"] for row in rows]
    wrong = derange(right)
    lines = [
        json.dumps(pair(better, worse, input={"messages": row["messages"][:-1]}))
        for row, better, worse in zip(rows, right, wrong, strict=True)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def derange(labels: Sequence[str]) -> list[str]:
    """The same labels in another order, none of them where it was."""
    draw, moved = random.Random(5), list(labels)
    while same := [place for place, label in enumerate(labels) if moved[place] == label]:
        for place in same:
            other = draw.randrange(len(moved))
            moved[place], moved[other] = moved[other], moved[place]
    return moved


def share_preferred(likelihoods: Sequence[tuple[float, float]]) -> float:
    return sum(chosen > rejected for chosen, rejected in likelihoods) / len(likelihoods)


@pytest.mark.slow
@pytest.mark.skipif(not TICKETS.exists(), reason="needs ../shared/data/banking10")
def test_a_small_model_prefers_the_better_answers_to_unseen_questions(tmp_path: Path) -> None:
    make_demo_model(MODEL)
    training = write_pairs(tmp_path / "train.jsonl", TICKETS / "train.jsonl", TRAINED)
    held_out = write_pairs(tmp_path / "held-out.jsonl", TICKETS / "holdout.jsonl", HELD_OUT)
    settings = Parameters(n_epochs=1, batch_size=8, learning_rate=RATE)
    folder = make_job(tmp_path / "job", MODEL, training, settings, method="dpo")
    assert run_training(folder) == 0
    model: Any = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    before = log_probabilities(model, MODEL, held_out)
    with silence_peft_warning():
        tuned = PeftModel.from_pretrained(model, str(folder / "adapter")).eval()
    after = log_probabilities(tuned, MODEL, held_out)
    rewarded = [(now[0] - then[0], now[1] - then[1]) for now, then in zip(after, before, strict=True)]
    print(f"preferred {share_preferred(before):.0%} before, {share_preferred(after):.0%} after, ", end="")
    print(f"reward accuracy {share_preferred(rewarded):.0%}")
    assert share_preferred(before) < 0.7
    assert share_preferred(after) > 0.75
    assert share_preferred(rewarded) > 0.75
