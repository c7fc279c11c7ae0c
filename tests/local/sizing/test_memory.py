"""Memory estimates compared with measured peaks of our own engine, in processes of their own: within 15%. Of toys the
growth is compared, within 25%, because what a process takes whatever it trains is the larger part of their peaks."""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.local.conftest import make_tokenizer
from tests.local.runs import make_job
from trainers.methods import MethodName, Parameters
from trainers.models.base_models import Base, find_base
from trainers.sizing.memory import (
    CHUNK_LOGITS,
    CPU_TOKENS,
    GPU_TOKENS,
    MANY_LOGITS,
    OLD_GPU_TOKENS,
    Device,
    Method,
    Work,
    estimate_memory,
)

ROOT = Path(__file__).parents[3]
TOLERANCE = 0.15
# Kernels and their scratch space take 60 to 100 MB, by processor; the difference of two trainings is free of them.
GROWTH_TOLERANCE = 0.25
STEPS = 2  # the first creates the optimizer's state, the second has everything
SMOLLM = ROOT / ".cache" / "smollm2-135m"
MAKE_SMOLLM = "make it with: python -m trainers.local.demo_model .cache/smollm2-135m"


@dataclass(frozen=True)
class Case:
    """`words` per row or prompt, and `batch` rows or pairs per step."""

    words: int
    batch: int
    number: str = "bf16"
    learns_all: bool = False


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("toy"))


def make_toy(folder: Path) -> Path:
    """A Llama of 8 layers, hidden size 256, with random weights: 8 million parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    make_tokenizer(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_chats(folder: Path, base: Path, case: Case) -> Path:
    """Returns the folder of a job on chats."""
    folder.mkdir()
    rows = [
        {
            "messages": [
                {"role": "user", "content": letter + " x" * case.words},
                {"role": "assistant", "content": "y"},
            ]
        }
        for letter in string.ascii_lowercase[: case.batch * STEPS]
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = Parameters(n_epochs=1, batch_size=case.batch, max_length=4096)
    method: MethodName = "supervised"
    if case.learns_all:
        method = "all_weights"
    return make_job(folder, base, folder / "train.jsonl", settings, method=method)


def measure_peaks(folders: Sequence[Path], number: str) -> list[int]:
    """Returns by how many bytes each training grew."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.local.sizing.peaks", *map(str, folders)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FINETUNE_DTYPE": number},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line)["grown"] for line in done.stdout.splitlines()]


def work_of_chats(base: Path, file: Path, case: Case) -> Work:
    """With rows as long as the model's own tokenizer makes them."""
    from trainers.local.training.base_model import load_tokenizer
    from trainers.local.training.data import read_rows
    from trainers.local.training.packing import shared_prefix_length

    rows = read_rows(file, load_tokenizer(str(base)), 4096, "training_file").rows
    answer = sum(rows[0].supervised)
    method: Method = "lora"
    if case.learns_all:
        method = "full"
    return Work(method, len(rows[0].ids), case.batch, answer=answer, shared=shared_prefix_length(rows))


@dataclass(frozen=True)
class Peak:
    """The bytes of one training at its peak."""

    case: Case
    estimated: int
    measured: int


def peaks_of(
    base: Path,
    cases: Sequence[Case],
    folder: Path,
    write: Callable[[Path, Path, Case], Path] = write_chats,
    work_of: Callable[[Path, Path, Case], Work] = work_of_chats,
) -> list[Peak]:
    model = find_base(str(base))
    assert isinstance(model, Base)
    folders = [write(folder / f"{case.words}x{case.batch}", base, case) for case in cases]
    peaks = []
    for case, job, measured in zip(cases, folders, measure_peaks(folders, cases[0].number), strict=True):
        device = Device("cpu", 2 if case.number == "bf16" else 4)
        work = work_of(base, job / "train.jsonl", case)
        estimated = int(estimate_memory(model.architecture, work, device).total)
        print(f"{case}: estimated {estimated / 2**20:,.0f} MiB, measured {measured / 2**20:,.0f} MiB")
        peaks.append(Peak(case, estimated, measured))
    return peaks


def compare_totals(peaks: Sequence[Peak]) -> None:
    for peak in peaks:
        assert peak.estimated == pytest.approx(peak.measured, rel=TOLERANCE), peak.case


def compare_growth(peaks: Sequence[Peak]) -> None:
    """Compares by how much each training takes more than the first one, which is the smallest."""
    smallest, *others = peaks
    assert others
    for peak in others:
        grown = peak.measured - smallest.measured
        assert grown > smallest.measured / 4, "else it would be lost in the allocator's noise"
        assert peak.estimated - smallest.estimated == pytest.approx(grown, rel=GROWTH_TOLERANCE), peak.case


@pytest.mark.deep
@pytest.mark.parametrize("number", [pytest.param("bf16", marks=pytest.mark.slow), "fp32"])
def test_larger_toy_trainings_take_as_much_more_memory_as_estimated(
    toy: Path, tmp_path: Path, number: str
) -> None:
    cases = [Case(90, 1, number), Case(90, 4, number), Case(450, 1, number)]
    compare_growth(peaks_of(toy, cases, tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("real_processes")
@pytest.mark.parametrize("number", ["bf16", "fp32"])
def test_smollm2_135m_takes_the_estimated_memory(tmp_path: Path, number: str) -> None:
    assert SMOLLM.exists(), MAKE_SMOLLM
    compare_totals(peaks_of(SMOLLM, [Case(80, 3, number), Case(280, 1, number)], tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("real_processes")
@pytest.mark.parametrize("number", ["bf16", "fp32"])
def test_all_weights_of_smollm2_135m_take_the_estimated_memory(tmp_path: Path, number: str) -> None:
    assert SMOLLM.exists(), MAKE_SMOLLM
    cases = [Case(80, 3, number, learns_all=True), Case(280, 1, number, learns_all=True)]
    compare_totals(peaks_of(SMOLLM, cases, tmp_path))


def test_estimates_use_the_engines_tokens_per_pack() -> None:
    import torch

    from trainers.local.training.packing import MASKED_TOKENS, Abilities, pack_tokens, usual_tokens

    assert pack_tokens(torch.device("cpu")) == CPU_TOKENS
    assert pack_tokens(torch.device("cuda")) == GPU_TOKENS
    by_mask = Abilities(packs=True, selects=True)
    assert usual_tokens(torch.device("cuda"), by_mask) == MASKED_TOKENS == OLD_GPU_TOKENS
    assert usual_tokens(torch.device("cuda"), replace(by_mask, by_blocks=True)) == GPU_TOKENS
    assert usual_tokens(torch.device("mps"), by_mask) == MASKED_TOKENS
    assert usual_tokens(torch.device("cpu"), by_mask) == CPU_TOKENS


def test_estimates_use_the_engines_chunks_of_logits() -> None:
    from trainers.local.kernels import chunked_loss

    assert (MANY_LOGITS, CHUNK_LOGITS) == (chunked_loss.MANY_LOGITS, chunked_loss.CHUNK_LOGITS)


def test_8192_learnt_tokens_of_128k_words_are_estimated_below_a_gigabyte() -> None:
    llama = find_base("llama-3.1-8b")
    assert isinstance(llama, Base)
    work = Work("lora", 8192, batch=1, answer=8192)
    assert estimate_memory(llama.architecture, work, Device("gpu", 2)).logits < 10**9
