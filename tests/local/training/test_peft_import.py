"""What is imported at the start of each training, and what is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainers.local.peft import compile_at_first_call

ROOT = Path(__file__).parents[3]
PRINT_IMPORTS = (
    "import gc, sys; gc.disable(); import trainers.local.training.methods.sft; "  # starts quicker
    "print(*(name in sys.modules for name in ('bitsandbytes', 'torch._inductor.compile_fx')))"
)


@pytest.mark.deep
def test_a_training_starts_without_torchs_compiler() -> None:
    pytest.importorskip("bitsandbytes")
    process = subprocess.run([sys.executable, "-c", PRINT_IMPORTS], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.split() == ["True", "False"], process.stderr


def test_torchs_own_compile_is_back_after_the_import() -> None:
    assert torch.compile.__module__ == "torch"


def test_a_function_is_compiled_once_at_its_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def record_options(function, **options):  # type: ignore[no-untyped-def]
        compiled.append(options)
        return function

    monkeypatch.setattr("trainers.local.peft._compile", record_options)
    double = compile_at_first_call(dynamic=True)(lambda number: 2 * number)
    assert compiled == []
    assert (double(3), double(number=4)) == (6, 8)
    assert compiled == [{"dynamic": True}]
