"""The comparison with other trainers and vLLM (benchmarks/peers.py), with stand-ins for what isn't installed here."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import peers
from tests.local.conftest import tiny_model_dir
from tests.local.serving.fake_vllm import install_fake_vllm
from tests.test_benchmarks import write_short_tickets

__all__ = ["tiny_model_dir"]
ROOT = Path(__file__).resolve().parents[1]
STUCK_S = 600
UNSLOTH = "from tests.peers.unsloth_package import FastLanguageModel as FastLanguageModel\n"
OURS = peers.Outcome("ours", losses=(2.0, 1.0), seconds=(1.0, 1.0))
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")


def run_peers(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/peers.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "FINETUNE_DTYPE": "fp32", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=STUCK_S,
    )


def install_fake_unsloth(engines: Path) -> None:
    """Its Python is this one, and finds a package of that name."""
    packages = engines / "unsloth" / "env" / "packages"
    (packages / "unsloth").mkdir(parents=True)
    (packages / "unsloth" / "__init__.py").write_text(UNSLOTH)
    facts = packages / "unsloth-0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: unsloth\nVersion: 0\n")
    python = engines / "unsloth" / "env" / "bin" / "python"
    python.parent.mkdir()
    path = shlex.quote(f"{ROOT}:{packages}")
    python.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (engines / "unsloth" / "engine.json").write_text(json.dumps({"version": "0"}))


@pytest.mark.deep
@pytest.mark.slow
@without_gpu
def test_all_trainers_have_equal_losses_and_vllm_answers_alike(tiny_model_dir: Path, tmp_path: Path) -> None:
    install_fake_unsloth(tmp_path / "engines")
    install_fake_vllm(tmp_path)
    page = peers.PAGE.read_text(encoding="utf-8")
    done = run_peers(
        *("--device", "cpu", "--model", str(tiny_model_dir), "--data", str(write_short_tickets(tmp_path))),
        *("--engines", str(tmp_path / "engines"), "--steps", "5", "--batch", "4", "--questions", "3"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for trainer in ("ours", "trl", "unsloth"):
        rows = re.findall(rf"^\| {trainer} \| .+ \| [\d,]+ \| \d+\.\d GB \| \d+% \|", done.stdout, re.M)
        assert len(rows) == len(peers.WORKLOADS)
    shares = re.findall(r"([\d.]+)% apart", done.stdout)
    assert len(shares) == 4
    assert max(map(float, shares)) < 100 * peers.EQUAL["float32"]
    assert re.search(r"^\| vllm \| .+ \| 3 of 3 \|$", done.stdout, re.M)
    assert peers.PAGE.read_text(encoding="utf-8") == page


@without_gpu
def test_without_a_gpu_nothing_is_compared(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["peers.py"])
    assert peers.main() == 0
    sentence = "Skipped: there is no CUDA GPU here, so nothing was compared and docs/gpus.md is unchanged.\n"
    assert capsys.readouterr().out == sentence


@pytest.mark.parametrize(
    ("other", "is_right"),
    [
        (peers.Outcome("trl", losses=(2.001, 1.0)), True),
        (peers.Outcome("trl", losses=(2.1, 1.0)), False),
        (peers.Outcome("trl", losses=(2.0,)), False),
        (peers.Outcome("trl", missing="not installed"), True),
        (peers.Outcome("trl", missing="failed: out of memory", has_failed=True), False),
    ],
)
def test_a_trainer_with_other_losses_or_without_any_is_a_failure(
    other: peers.Outcome, is_right: bool
) -> None:
    assert list(peers.verdicts_of([OURS, other], "float32")) == [True, is_right]


def test_the_largest_chat_model_of_the_cache_that_fits_is_taken(tiny_model_dir: Path, tmp_path: Path) -> None:
    for name, extra in (("small", 0), ("larger", 1000), ("too-large", 10**7)):
        folder = tmp_path / f"models--org--{name}" / "snapshots" / "abc"
        shutil.copytree(tiny_model_dir, folder)
        with (folder / "more.safetensors").open("wb") as file:
            file.truncate(extra)
    no_chat = tmp_path / "models--org--no-template" / "snapshots" / "abc"
    shutil.copytree(tiny_model_dir, no_chat)
    (no_chat / "chat_template.jinja").unlink()
    assert list(peers.cached_bases(5e6, tmp_path)) == ["org/larger", "org/small"]
    assert list(peers.cached_bases(0, tmp_path)) == []
    assert peers.cached_bases(5e6, tmp_path / "nowhere") == {}


def test_the_tables_replace_those_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "gpus.md"
    page.write_text(f"before\n{peers.START}old\n{peers.END}after\n")
    monkeypatch.setattr(peers, "PAGE", page)
    peers.write_page("| new |")
    assert page.read_text() == f"before\n{peers.START}\n| new |\n{peers.END}after\n"


def test_the_page_has_a_place_for_the_tables() -> None:
    text = peers.PAGE.read_text(encoding="utf-8")
    assert text.count(peers.START) == text.count(peers.END) == 1
