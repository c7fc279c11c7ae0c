"""What a training takes of this machine: on the estimate, in the plan, and from a speed that was measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from bot.cards import estimate_details, plans
from bot.cards.assumptions import assumptions
from bot.cards.prices import missing_price_text
from bot.cards.reasons import because_text
from bot.cards.terminal import terminal_text
from bot.cli import datasets
from bot.cli.estimates import estimate_json
from bot.rules.estimate_inputs import Question
from bot.rules.plans import Prediction, canonical_json, plan_from_json
from bot.rules.prices import MissingPrice
from bot.services import estimates as estimates_services
from bot.services import hardware
from bot.services.estimate_inputs import RunCost
from bot.services.estimate_requests import prediction_of
from bot.services.estimates import EstimateResult, make_estimate
from bot.services.plans import _warnings, untrainable_text
from bot.settings import PACKAGED_TARGET, Settings, load_settings
from bot.values.runs import Refusal
from tests.cards import builders
from tests.trainers.test_sizing_training_time import MACHINE
from trainers.base_models import Base, find_base
from trainers.dataset import Report
from trainers.providers import ProviderRow
from trainers.sizing.hardware import read_gpu
from trainers.sizing.training_time import CALIBRATION_FILE

GUESS = "Guessed from the model's size"
TICKETS = Path(__file__).parents[2] / "examples" / "support_tickets.csv"
MISTRAL = "mistralai/Mistral-7B-Instruct-v0.3"


@pytest.fixture(scope="module")
def report() -> Report:
    return datasets.check(TICKETS, None, None)


SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def settings(folder: Path, model: str = SMOL, more: str = "") -> Settings:
    """`more`: of [trainer]."""
    file = folder / "finetune.toml"
    file.write_text(f'[trainer]\n{more}\n[trainer.models]\nours = "{model}"\n')
    return load_settings({}, file, need_slack=False)


BOX = '[providers.local.models.box]\nusd_per_hour = "2"\n'


def load(folder: Path, text: str) -> Settings:
    file = folder / "finetune.toml"
    file.write_text(text)
    return load_settings({}, file, need_slack=False)


def bits(quantization: str | None) -> tuple[tuple[str, str], ...]:
    return (("quantization", quantization),) if quantization else ()


def estimated(
    settings: Settings, report: Report, target: str | None = None, quantization: str | None = None
) -> EstimateResult:
    question = Question(
        current="gpt-4o", volume=10_000_000, target=target, hyperparameters=bits(quantization)
    )
    found = make_estimate(settings, "tickets", report, question, date(2026, 11, 25))
    assert isinstance(found, EstimateResult)
    return found


def test_an_estimate_for_this_machine_says_parameters_and_memory(tmp_path: Path, report: Report) -> None:
    found = estimated(settings(tmp_path), report)
    assert found.memory is not None
    assert found.memory.startswith("fits, about ")
    assert found.memory.endswith("134.5M parameters, 4.9M trained")


def test_an_encoder_s_head_is_counted_with_its_weights_for_words(report: Report) -> None:
    packaged, _ = hardware.encoder_needs(PACKAGED_TARGET, report, 9_000, {}, is_here=True)
    trained = (384 + 4_096 + 1) * len(report.labels)
    assert packaged and packaged.line.endswith(f"22.7M parameters, up to {trained:,} trained")
    other, _ = hardware.encoder_needs("multilingual", report, 9_000, {}, is_here=True)
    assert other and "parameters" not in other.line


def test_what_trains_elsewhere_or_is_not_known_says_nothing_of_memory(tmp_path: Path, report: Report) -> None:
    assert estimated(settings(tmp_path), report, "gpt-4.1").memory is None
    assert estimated(settings(tmp_path, "org/unheard-of"), report).memory is None


def test_a_base_that_cannot_be_trained_is_refused_before_there_is_a_plan(
    tmp_path: Path, report: Report
) -> None:
    base = tmp_path / "gpt-oss"
    base.mkdir()
    (base / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    found = settings(tmp_path, str(base))
    said = untrainable_text(found, estimated(found, report).target)
    assert said is not None
    assert "stored in the format gptq" in said
    assert untrainable_text(settings(tmp_path), estimated(settings(tmp_path), report).target) is None
    hosted = estimated(found, report, "gpt-4.1").target
    assert untrainable_text(found, hosted) is None


def test_what_does_not_fit_is_a_warning_that_approvers_read(tmp_path: Path, report: Report) -> None:
    found = estimated(settings(tmp_path, "meta-llama/Llama-4-Scout-17B-16E-Instruct"), report)
    assert found.memory is not None
    assert found.memory.startswith("does not fit, about ")
    (warning,) = _warnings(found)
    assert "is not enough: the training needs about " in warning


def test_what_would_fit_in_4_bits_is_said_and_fits_once_it_is_asked_for(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "this_machine", lambda: read_gpu("16"))
    small = settings(tmp_path, MISTRAL)
    (warning,) = _warnings(estimated(small, report))
    said = re.search(r"With `quantization=nf4` it needs about ([0-9.]+) GB, which fits\.$", warning)
    assert said is not None, warning
    packed = estimated(small, report, quantization="nf4")
    assert packed.memory is not None
    assert packed.memory.startswith(f"fits, about {said[1]} of 16 GB")
    assert ("quantization", "nf4") in packed.hyperparameters
    assert _warnings(packed) == ()


@pytest.mark.parametrize(
    ("model", "rate"),
    [("HuggingFaceTB/SmolLM2-135M-Instruct", 1e-3), (MISTRAL, 2.9e-4), ("org/unheard-of", None)],
)
def test_the_learning_rate_goes_by_the_size_of_the_base(
    tmp_path: Path, report: Report, model: str, rate: float | None
) -> None:
    found = dict(estimated(settings(tmp_path, model), report).hyperparameters)
    assert found.get("learning_rate") == rate, "unknown here: the trainer finds it"
    assert "learning_rate" not in dict(estimated(settings(tmp_path), report, "gpt-4.1").hyperparameters)


def test_memory_is_that_of_what_the_trainer_does_by_itself(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "this_machine", lambda: read_gpu("24"))
    found = estimated(settings(tmp_path, MISTRAL), report)
    assert str(found.memory).startswith("fits with checkpointing, about "), found.memory
    assert _warnings(found) == ()


def test_bits_that_are_left_to_the_trainer_are_those_of_the_base(tmp_path: Path, report: Report) -> None:
    base = find_base("smollm2-135m", ask_the_hub=False)
    assert isinstance(base, Base)
    assert hardware.memory_headroom(base, report, {"quantization": "auto"}) == hardware.memory_headroom(
        base, report, {}
    )
    assert hardware.memory_headroom(base, report, {"quantization": "nf4"}) != hardware.memory_headroom(
        base, report, {}
    )


def test_a_measured_speed_is_not_that_of_4_bits(tmp_path: Path, report: Report) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / CALIBRATION_FILE).write_text(MACHINE.to_json())
    assert why(estimated(settings(tmp_path), report, quantization="nf4")).startswith(GUESS)


def test_bits_without_their_package_are_a_sentence(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates_services, "find_spec", lambda name: None)
    question = Question(target="ours", hyperparameters=bits("int8"))
    found = make_estimate(settings(tmp_path), "tickets", report, question, date(2026, 11, 25))
    assert isinstance(found, Refusal)
    assert found.text.startswith("`quantization=int8` needs the package bitsandbytes beside our trainer")


def test_a_measured_speed_sets_the_minutes_and_is_named_among_the_assumptions(
    tmp_path: Path, report: Report
) -> None:
    before = estimated(settings(tmp_path), report)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / CALIBRATION_FILE).write_text(replace(MACHINE, speed=1e12).to_json())
    after = estimated(settings(tmp_path), report)
    assert before.minutes is not None and after.minutes is not None
    assert after.minutes.expected != before.minutes.expected
    assert float(after.minutes.low / after.minutes.expected) == pytest.approx(0.8)
    assert why(before).startswith(GUESS)
    assert "this machine's own speed, measured on 2026-11-18" in why(after)


def test_a_speed_that_cannot_be_read_is_logged_and_the_rule_holds(
    tmp_path: Path, report: Report, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / CALIBRATION_FILE).write_text("{")
    assert why(estimated(settings(tmp_path), report)).startswith(GUESS)
    assert "measure again with `finetune calibrate`" in caplog.text


def expected_minutes(found: EstimateResult) -> float:
    assert found.minutes is not None
    return float(found.minutes.expected)


def test_a_guessed_time_grows_with_the_model_and_shrinks_with_the_machine(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = (settings(tmp_path, name) for name in (SMOL, MISTRAL))
    on_cpu = [expected_minutes(estimated(one, report)) for one in (small, large)]
    assert on_cpu[1] > 10 * on_cpu[0], "of 50 times as many parameters"
    monkeypatch.setattr(hardware, "this_machine", lambda: read_gpu("h100"))
    on_gpu = estimated(large, report)
    assert expected_minutes(on_gpu) < on_cpu[1] / 10
    assert on_gpu.minutes is not None
    assert float(on_gpu.minutes.high / on_gpu.minutes.low) == pytest.approx(9)
    facts = estimate_details.escaped_facts(estimate_details._one_off_facts(on_gpu))
    said = dict(facts.pairs)["Training takes"]
    assert said.endswith("guessed from the model's size; `finetune calibrate` measures it")


def test_a_time_is_not_known_where_the_base_or_the_machine_is_not(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "this_machine", lambda: read_gpu("h100"))
    unheard = estimated(settings(tmp_path, "org/unheard-of"), report)
    monkeypatch.setattr(hardware, "this_machine", lambda: read_gpu("24"))
    for found in (unheard, estimated(settings(tmp_path), report)):
        assert found.minutes is None
        assert dict(estimate_details._one_off_facts(found))["Training takes"].startswith(
            "unknown; set `tokens_per_second`"
        )
        assert prediction_of(found).seconds is None
        assert estimate_json(found, TICKETS)["training_minutes"] is None


def test_a_persons_word_on_the_speed_wins_over_what_was_measured(tmp_path: Path, report: Report) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / CALIBRATION_FILE).write_text(MACHINE.to_json())
    slow, fast = (
        estimated(settings(tmp_path, more=f"tokens_per_second = {speed}"), report) for speed in (10, 1000)
    )
    assert expected_minutes(slow) > 20 * expected_minutes(fast)
    assert why(fast).startswith("From tokens_per_second in finetune.toml")


def test_a_persons_word_on_the_speed_leaves_no_training_time_unknown(tmp_path: Path, report: Report) -> None:
    """Also of a GPU box elsewhere, which nothing here can measure."""
    elsewhere = f'tokens_per_second = 900\n[providers.local]\nbase_url = "http://192.0.2.7/v1"\n{BOX}'
    said, unsaid = (
        estimated(load(tmp_path, text), report, "local/box")
        for text in (f"[trainer]\n{elsewhere}", elsewhere.partition("\n")[2])
    )
    assert "training time is only a guess" not in _reasons(said)
    assert "training time is only a guess" in _reasons(unsaid)


def test_no_maximum_of_a_paid_run_comes_from_a_guess(tmp_path: Path, report: Report) -> None:
    paid = 'usd_per_hour = "2"'
    guessed = estimated(settings(tmp_path, more=paid), report)
    assert isinstance(guessed.cost, MissingPrice)
    assert "`finetune calibrate`" in missing_price_text(guessed.cost)
    assert "`tokens_per_second`" in missing_price_text(guessed.cost)
    assert guessed.is_guess and guessed.minutes is not None, "the time is shown all the same"
    assert isinstance(estimated(settings(tmp_path), report).cost, RunCost), "free: nothing is stopped by it"
    said = estimated(settings(tmp_path, more=f"{paid}\ntokens_per_second = 900"), report)
    assert isinstance(said.cost, RunCost)
    assert said.cost.training.usd.high > 0
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / CALIBRATION_FILE).write_text(MACHINE.to_json())
    assert isinstance(estimated(settings(tmp_path, more=paid), report).cost, RunCost)


def test_a_measured_time_has_what_computing_activations_again_takes(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / CALIBRATION_FILE).write_text(replace(MACHINE, device="cuda", startup_s=0).to_json())
    mistral = settings(tmp_path, MISTRAL)
    taken = []
    for memory in ("80", "24"):
        monkeypatch.setattr(hardware, "this_machine", lambda memory=memory: read_gpu(memory))
        found = estimated(mistral, report)
        assert ("with checkpointing" in str(found.memory)) == (memory == "24")
        taken.append(expected_minutes(found))
    assert taken[1] / taken[0] == pytest.approx(4 / 3, rel=0.02)


def test_a_guessed_time_is_called_one_in_the_plan_and_other_plans_keep_their_bytes() -> None:
    foreseen = replace(Prediction("current=gpt-4o"), is_speed_guessed=True)
    plan = replace(builders.plan(), predicted=foreseen)
    assert plan_from_json(canonical_json(plan)) == plan
    assert "guessed from the model's size" in plans._takes(plan)
    assert "guess" not in canonical_json(replace(plan, predicted=Prediction("current=gpt-4o")))
    unknown = replace(plan, seconds_low=None, seconds_high=None)
    assert plan_from_json(canonical_json(unknown)) == unknown
    assert plans._takes(unknown).startswith("unknown")


def why(found: EstimateResult) -> str:
    return next(one.why for one in assumptions(found.inputs) if one.name == "training time")


def test_the_plan_card_has_memory_beside_the_time() -> None:
    plan = replace(builders.plan(), predicted=Prediction("volume=10M", memory="fits, about 0.6 of 25 GB"))
    assert "Memory: fits, about 0.6 of 25 GB" in plans._takes(plan)
    assert plan_from_json(canonical_json(plan)) == plan


def test_the_plan_card_says_what_trains_it_and_in_how_many_bits_where_not_as_usual() -> None:
    usual = builders.plan()
    other = replace(usual, hyperparameters=(("engine", "unsloth"), ("n_epochs", 2), ("quantization", "nf4")))
    plain = replace(usual, hyperparameters=(("engine", "builtin"), ("n_epochs", 2), ("quantization", "none")))
    assert plans._model(other) == f"{plans._model(usual)}, engine unsloth, base in nf4, epochs 2"
    assert plans._model(plain) == f"{plans._model(usual)}, epochs 2"


def test_a_plan_from_before_keeps_its_hash() -> None:
    plan = replace(builders.plan(), predicted=Prediction("volume=10M"))
    assert "memory" not in json.loads(canonical_json(plan))["predicted"]


def test_more_than_one_machine_can_answer_takes_several_and_their_dollars(
    tmp_path: Path, report: Report
) -> None:
    ready = settings(tmp_path)
    ready.data.mkdir()
    served = replace(MACHINE, reads=10_000.0, writes=1_000.0, served_weights=134_000_000.0)
    (ready.data / CALIBRATION_FILE).write_text(served.to_json())
    paid = replace(ready, providers=tuple(_paid(row) for row in ready.providers))
    asked = Question(current="gpt-4o", volume=100_000_000_000)
    found = make_estimate(paid, "tickets", report, asked, date(2026, 11, 25))
    assert isinstance(found, EstimateResult) and found.estimate is not None
    count = found.estimate.machines
    assert count is not None and count > 10
    assert found.estimate.monthly_after.hosting == 2 * 730 * count
    assert f"{count} like yours" in terminal_text(estimate_details.details(found, "local/tuned"))
    assert not [one for one in found.verdict.reasons if one.rule == "machine"], (
        "its speed and its price are known"
    )
    free = make_estimate(ready, "tickets", report, asked, date(2026, 11, 25))
    assert isinstance(free, EstimateResult) and free.verdict.kind != "go"
    assert f"about {count} machines like yours" in _reasons(free)
    given = replace(ready, providers=tuple(_paid(row, usd=0) for row in ready.providers))
    told = make_estimate(given, "tickets", report, asked, date(2026, 11, 25))
    assert isinstance(told, EstimateResult) and "whose price is not given" not in _reasons(told)
    little = replace(asked, volume=1_000_000)
    one = make_estimate(ready, "tickets", report, little, date(2026, 11, 25))
    assert isinstance(one, EstimateResult) and one.estimate is not None and one.estimate.machines == 1


def _reasons(found: EstimateResult) -> str:
    return " ".join(because_text(reason.because) for reason in found.verdict.reasons)


def _paid(row: ProviderRow, usd: int = 2) -> ProviderRow:
    """As somebody says it in finetune.toml."""
    models = row.models if row.name == "local" else ()
    return replace(
        row, models=tuple(replace(one, usd_per_hour=Decimal(usd), is_hourly_price_set=True) for one in models)
    )


def test_a_training_that_does_not_fit_is_a_no(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = read_gpu("1")
    assert small is not None
    monkeypatch.setattr(hardware, "this_machine", lambda: small)
    found = estimated(settings(tmp_path, MISTRAL), report)
    assert found.verdict.kind == "no_go"
    (reason,) = [one for one in found.verdict.reasons if one.rule == "memory"]
    assert reason.weighs and "is not enough" in because_text(reason.because)


def test_a_guessed_training_time_is_not_called_unknown_beside_its_minutes(
    tmp_path: Path, report: Report
) -> None:
    found = estimated(settings(tmp_path), report)
    assert found.minutes is not None
    said = next(because_text(one.because) for one in found.verdict.reasons if one.rule == "machine")
    assert said.startswith(
        "The speed of your own machine is not measured, so the training time is only a guess"
    )
