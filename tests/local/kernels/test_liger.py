"""Liger's kernels give the loss and gradients of the model's own modules, which stay in use otherwise.

Triton's interpreter runs the kernels on a CPU, in a separate process because TRITON_INTERPRET applies to all of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.local.conftest import hide
from tests.local.training.test_packing import tiny
from trainers.local.job_directory import read_events, read_json
from trainers.local.kernels.liger import LIGER_FAMILIES, Kernels, choose_kernels, replace_by_liger
from trainers.local.training import setup
from trainers.local.training.metrics_logger import MetricsLogger
from trainers.local.training.packing import PACKED_FAMILIES
from trainers.local.training.setup import report_kernels

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
needs_liger = pytest.mark.skipif(
    importlib.util.find_spec("liger_kernel") is None or importlib.util.find_spec("triton") is None,
    reason="liger-kernel and triton are not installed: pip install -e '.[liger]' in a checkout",
)
NAMES = (*LIGER_FAMILIES, "phi3 longrope", "llama recomputed")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def comparisons() -> dict[str, Any]:
    process = subprocess.run(
        [sys.executable, "-m", "tests.local.kernels.liger_comparison", *NAMES, "pairs"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "FINETUNE_DTYPE": "fp32"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    results = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    return {result["name"]: result for result in results}


@needs_liger
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_are_those_of_the_models_own_modules(
    comparisons: dict[str, Any], name: str
) -> None:
    result = comparisons[name]
    assert result["why"] is None
    assert result["kernels"].startswith("liger ")
    assert result["gradients"] >= 8
    assert result["loss_apart"] < TOLERANCE
    assert result["gradient_apart"] < TOLERANCE
    assert any("RMSNorm" in module for module in result["replaced"])
    assert any("MLP" in module for module in result["replaced"])
    assert result["rotary"] == "liger_kernel"


@needs_liger
def test_training_on_pairs_has_the_same_curve_with_and_without_liger(comparisons: dict[str, Any]) -> None:
    result = comparisons["pairs"]
    assert result["kernels"].startswith("liger ")
    assert len(result["own"]) == 2
    for own, theirs in zip(result["own"], result["theirs"], strict=True):
        assert theirs == pytest.approx(own, rel=TOLERANCE, abs=1e-5)


def test_ligers_families_are_packed_families() -> None:
    assert set(LIGER_FAMILIES) <= set(PACKED_FAMILIES)


def test_a_model_on_a_cpu_keeps_its_own_norms() -> None:
    model = tiny("llama")
    assert choose_kernels(model, CPU) is None
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_divided_base_keeps_its_own_kernels() -> None:
    result = choose_kernels(tiny("llama"), torch.device("cuda"), is_sharded=True)
    assert str(result) == (
        "Kernels: PyTorch, since Liger's are not supported on a base that is divided among GPUs"
    )


def test_without_the_extra_the_reason_for_pytorchs_kernels_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    hide("liger_kernel", monkeypatch)
    result = replace_by_liger(tiny("llama"))
    assert str(result) == "Kernels: PyTorch, since liger-kernel is not installed (the extra [liger])"


def put_package(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a liger_kernel whose function has this body."""
    package = folder / "liger_kernel" / "transformers"
    package.mkdir(parents=True)
    (folder / "liger_kernel" / "__init__.py").touch()
    (package / "__init__.py").write_text(body)
    about = folder / "liger_kernel-9.9.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: liger-kernel\nVersion: 9.9\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "liger_kernel"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)


FUNCTION = "def _apply_liger_kernel_to_instance(model, **options):\n"
OTHER = (
    FUNCTION + "    from transformers.models.llama import modeling_llama\n"
    "    turn = modeling_llama.apply_rotary_pos_emb\n"
    "    modeling_llama.apply_rotary_pos_emb = lambda *states: turn(*states)\n"
    "    norm = model.get_decoder().norm\n"
    "    norm.offset, norm.forward = 1.0, lambda states: states\n"
)
RAISE = "    raise RuntimeError('no such GPU\\nmore')\n"


@pytest.mark.parametrize(
    ("family", "body", "reason"),
    [
        (
            "llama",
            "raise ImportError('no triton here')",
            "importing liger_kernel: ImportError no triton here",
        ),
        ("granite", FUNCTION + "    pass\n", "Liger's were not tested with the family granite"),
        ("llama", OTHER + RAISE, "Liger's did not run here: RuntimeError no such GPU"),
        ("llama", OTHER, "Liger's results differ for this model (by "),
    ],
)
def test_if_liger_cannot_be_used_the_model_is_restored_and_the_reason_given(
    family: str, body: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_package(tmp_path, body, monkeypatch)
    model, source = tiny(family), transformers_file(family)
    turns, norm = source.apply_rotary_pos_emb, dict(vars(model.get_decoder().norm))
    result = replace_by_liger(model)
    assert result.name == "PyTorch"
    assert (result.why or "").startswith(reason)
    assert source.apply_rotary_pos_emb is turns
    assert vars(model.get_decoder().norm) == norm


def transformers_file(family: str) -> ModuleType:
    return importlib.import_module(f"transformers.models.{family}.modeling_{family}")


def test_kernels_with_the_same_results_stay_with_their_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = (
        FUNCTION
        + "    import json, pathlib\n    pathlib.Path(__file__).with_name('options').write_text(json.dumps(options))\n"
    )
    put_package(tmp_path, body, monkeypatch)
    assert replace_by_liger(tiny("llama")) == Kernels("liger 9.9")
    options = json.loads((tmp_path / "liger_kernel" / "transformers" / "options").read_text())
    assert options == {
        "rope": True,
        "rms_norm": True,
        "swiglu": True,
        "geglu": True,
        "cross_entropy": False,
        "fused_linear_cross_entropy": False,
    }


def test_a_job_logs_its_kernels_and_a_change_of_kernels_on_resuming(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path, (), None)
    report_kernels(tmp_path, None, logger)
    assert not (tmp_path / setup.KERNELS_FILE).exists()
    report_kernels(tmp_path, Kernels("liger 0.8.0"), logger)
    assert read_json(tmp_path / setup.KERNELS_FILE) == {"kernels": "liger 0.8.0", "why": None}
    report_kernels(tmp_path, Kernels("PyTorch", "it is gone"), logger)
    assert [event["message"] for event in read_events(tmp_path)] == [
        "Kernels: liger 0.8.0",
        "Kernels: PyTorch, since it is gone",
        "This job began with the kernels of liger 0.8.0: results may differ in their last digits",
    ]
