"""The callback in an engine's own trainer, tested on the control object that transformers passes to callbacks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl

from trainers.local.engines.scripts import callback


def decisions_after(step: int, strategy: str = "steps") -> tuple[bool, bool, bool]:
    """Returns whether it validates, saves and stops after the step."""
    control = TrainerControl()
    callback.JobCallback().on_step_end(
        SimpleNamespace(eval_strategy=strategy), SimpleNamespace(global_step=step), control
    )
    return control.should_evaluate, control.should_save, control.should_training_stop


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(callback, "STOP", tmp_path / "STOP")
    return tmp_path


def model(layer: torch.nn.Module) -> torch.nn.Module:
    """Returns a model with a layer as peft wraps it."""
    wrapped = torch.nn.Module()
    wrapped.base_layer = layer
    return wrapped


def begin_training(layer: torch.nn.Module) -> None:
    callback.JobCallback().on_train_begin(None, None, None, model=model(layer))


def four_bits() -> torch.nn.Module:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer: torch.nn.Module = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4")
    return layer


def test_every_fourth_step_is_validated_and_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "EVERY", 4)
    assert decisions_after(4) == decisions_after(8) == (True, True, False)
    assert decisions_after(6) == (False, False, False)
    assert decisions_after(4, strategy="no") == (False, False, False)


def test_by_default_no_step_is_validated_or_saved() -> None:
    assert decisions_after(4) == (False, False, False)


def test_a_validation_that_the_config_asks_for_is_also_saved() -> None:
    control = TrainerControl(should_evaluate=True)
    callback.JobCallback().on_step_end(
        SimpleNamespace(eval_strategy="steps"), SimpleNamespace(global_step=127), control
    )
    assert control.should_save


def test_a_stop_saves_and_validates_if_there_are_rows(folder: Path) -> None:
    (folder / "STOP").touch()
    assert decisions_after(5) == (True, True, True)
    assert decisions_after(5, strategy="no") == (False, True, True)


def test_layers_in_the_requested_quantization_may_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "WANTED", "nf4")
    begin_training(four_bits())


@pytest.mark.parametrize("wanted", ["nf4", "int8"])
def test_an_engine_that_loaded_full_weights_is_detected(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setattr(callback, "WANTED", wanted)
    with pytest.raises(callback.NotQuantized, match=f"the base's layers are Linear, not {wanted}"):
        begin_training(torch.nn.Linear(64, 64))


def test_another_quantization_than_requested_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "WANTED", "int8")
    with pytest.raises(callback.NotQuantized, match="the base's layers are nf4, not int8"):
        begin_training(four_bits())


def test_full_weights_may_train_without_quantization() -> None:
    begin_training(torch.nn.Linear(64, 64))
