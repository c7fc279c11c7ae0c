"""What is put into an engine's own trainer, tried on transformers' control as it is handed to callbacks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl

from trainers.local.engines.scripts import callback


def after(step: int, strategy: str = "steps") -> tuple[bool, bool, bool]:
    """Does it validate, save and stop after the step?"""
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
    """As peft wraps a layer."""
    wrapped = torch.nn.Module()
    wrapped.base_layer = layer
    return wrapped


def begin(layer: torch.nn.Module) -> None:
    callback.JobCallback().on_train_begin(None, None, None, model=model(layer))


def four_bits() -> torch.nn.Module:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer: torch.nn.Module = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4")
    return layer


def test_a_validation_comes_each_so_many_steps_with_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "EVERY", 4)
    assert after(4) == after(8) == (True, True, False)
    assert after(6) == (False, False, False)
    assert after(4, strategy="no") == (False, False, False)


def test_without_being_told_it_does_nothing() -> None:
    assert after(4) == (False, False, False)


def test_a_validation_by_the_config_gets_a_checkpoint_too() -> None:
    control = TrainerControl(should_evaluate=True)
    callback.JobCallback().on_step_end(
        SimpleNamespace(eval_strategy="steps"), SimpleNamespace(global_step=127), control
    )
    assert control.should_save


def test_the_stop_ends_with_a_checkpoint_and_a_validation_where_there_are_rows(folder: Path) -> None:
    (folder / "STOP").touch()
    assert after(5) == (True, True, True)
    assert after(5, strategy="no") == (False, True, True)


def test_layers_that_are_quantised_as_asked_may_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "WANTED", "nf4")
    begin(four_bits())


@pytest.mark.parametrize("wanted", ["nf4", "int8"])
def test_an_engine_that_loaded_whole_weights_is_caught(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setattr(callback, "WANTED", wanted)
    with pytest.raises(callback.NotQuantized, match=f"the base's layers are Linear, not {wanted}"):
        begin(torch.nn.Linear(64, 64))


def test_other_bits_than_asked_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "WANTED", "int8")
    with pytest.raises(callback.NotQuantized, match="the base's layers are nf4, not int8"):
        begin(four_bits())


def test_whole_weights_are_as_asked_where_nothing_was() -> None:
    begin(torch.nn.Linear(64, 64))
