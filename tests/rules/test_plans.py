"""A plan's hash covers every field, and its JSON restores it."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.rules.models.deployments import Hosting, TokenTerms
from bot.rules.plan_settings import ChangedSetting, chosen_settings, trains_the_same
from bot.rules.plans import (
    Continued,
    Destination,
    EarlyStopping,
    OtherModel,
    Plan,
    Retraining,
    SweepPlan,
    TaughtRows,
    canonical_json,
    hyperparameters_for,
    plan_from_json,
    plan_hash,
    plan_key,
)
from tests.cards import builders
from tests.cards.builders import NOT_DECIDED, PREDICTED
from trainers.hyperparameters import epochs_for, hosted_epochs_for

PLAN = builders.plan(
    system="Classify.",
    hyperparameters=(("batch_size", 8), ("learning_rate", 0.001), ("n_epochs", 3)),
    warnings=("The model ends soon.", "It cannot be retrained."),
    monthly_after_micros=None,
)
STOPPING = EarlyStopping(2, "f" * 64, "e" * 64, 540, 60)
SWEPT = SweepPlan(
    (("lora_r", (8, 16)), ("learning_rate", (0.0005, 0.001))), "f" * 64, "e" * 64, 540, 60, 136, "0.1"
)
LATER = {
    "predicted": PREDICTED,
    "stopping": STOPPING,
    "swept": SWEPT,
    "overridden": ("support stays here",),
    "destination": Destination("", "ab12", None, "builtin 0.1.0"),
    "taught": (TaughtRows("house/big", 119, 0.96, 0.91, 0.99),),
    "retrains": Retraining("openai/gpt-4o", "2027-01-14"),
    "continued": Continued(("current", "volume"), "U0ANA", "2026-11-28", bar=0.99),
}
# The hash of PLAN by a release without predictions.
OLD_HASH = "ed1db3666fcf6642494c9c497c1af7aae51ec12ef7ab23ee554808912a68ba6f"
# The hash of PLAN on a machine, by the last release without terms by the token.
OLD_HASH_WITH_MACHINE = "6d8b4bd8be14350abe6417312b0d09a2a36dac49325c718b44a852a06f31aabf"

OTHER_HYPERPARAMETERS = (
    (("batch_size", 8), ("learning_rate", 0.001), ("n_epochs", 2)),
    (("batch_size", 8), ("learning_rate", 0.002), ("n_epochs", 3)),
    (("n_epochs", 3),),
)


def other_values(name: str, value: Any) -> tuple[Any, ...]:
    """Values of the same type that differ from the plan's."""
    if name == "hyperparameters":
        return OTHER_HYPERPARAMETERS
    if name in LATER:
        return (LATER[name],)
    if isinstance(value, str):
        return value + "x", value.upper() + " "
    if isinstance(value, tuple):
        return value[::-1], value[:1], (*value, "")
    return (0,) if value is None else (value + 1,)


def test_every_field_is_part_of_the_hash() -> None:
    for field in fields(Plan):
        for value in other_values(field.name, getattr(PLAN, field.name)):
            assert plan_hash(replace(PLAN, **{field.name: value})) != plan_hash(PLAN), (field.name, value)
    assert plan_hash(replace(PLAN, system="")) != plan_hash(replace(PLAN, system=None))


def test_the_verdict_is_part_of_the_hash() -> None:
    advised = replace(PLAN, predicted=replace(PREDICTED, advised=NOT_DECIDED))
    assert plan_from_json(canonical_json(advised)) == advised
    for other in (
        None,
        replace(NOT_DECIDED, best=None),
        replace(NOT_DECIDED, kind="go"),
        replace(NOT_DECIDED, reason="Nothing speaks against it."),
        replace(NOT_DECIDED, unmeasured=OtherModel("openai/gpt-6-luna", 11_000_000)),
        replace(NOT_DECIDED, task="latency"),
        replace(NOT_DECIDED, net=None),
        replace(NOT_DECIDED, machine_micros=0),
    ):
        another = replace(advised, predicted=replace(PREDICTED, advised=other))
        assert plan_hash(another) != plan_hash(advised)
        assert plan_from_json(canonical_json(another)) == another


def test_terms_by_the_token_are_part_of_the_hash_and_plans_for_a_machine_keep_theirs() -> None:
    machine = replace(PLAN, hosting=Hosting(8_000_000, 1800, 20_000_000))
    assert plan_hash(machine) == OLD_HASH_WITH_MACHINE
    terms = TokenTerms("coreweave", "meta-llama/Llama-3.1-8B-Instruct", "0.22", "0.22", 16)
    by_token = replace(PLAN, hosting=Hosting.served_by_token(terms))
    assert plan_from_json(canonical_json(by_token)) == by_token
    dearer = replace(PLAN, hosting=Hosting.served_by_token(replace(terms, output="0.30")))
    assert len({plan_hash(machine), plan_hash(by_token), plan_hash(dearer)}) == 3


def test_a_plan_from_before_verdicts_keeps_its_hash_and_is_not_advised() -> None:
    old = replace(PLAN, predicted=PREDICTED)
    assert "advised" not in canonical_json(old)
    assert old.advised is None and not old.is_advised and not PLAN.is_advised
    assert replace(PLAN, predicted=replace(PREDICTED, advised=replace(NOT_DECIDED, kind="go"))).is_advised
    assert not replace(PLAN, predicted=replace(PREDICTED, advised=NOT_DECIDED)).is_advised


def test_a_verdict_from_before_net_values_keeps_its_hash() -> None:
    old = replace(NOT_DECIDED, net=None, machine_micros=0)
    stored = canonical_json(replace(PLAN, predicted=replace(PREDICTED, advised=old)))
    assert "machine_micros" not in stored and '"net"' not in stored
    assert canonical_json(plan_from_json(stored)) == stored


def test_a_net_value_from_before_price_falls_keeps_its_hash() -> None:
    assert NOT_DECIDED.net is not None
    old = replace(NOT_DECIDED, net=replace(NOT_DECIDED.net, price_fall=""))
    stored = canonical_json(replace(PLAN, predicted=replace(PREDICTED, advised=old)))
    assert '"net"' in stored and "price_fall" not in stored
    assert canonical_json(plan_from_json(stored)) == stored

    newer = replace(NOT_DECIDED, net=replace(NOT_DECIDED.net, price_fall="0.3"))
    plan = replace(PLAN, predicted=replace(PREDICTED, advised=newer))
    assert canonical_json(plan) != stored
    assert plan_from_json(canonical_json(plan)) == plan


@pytest.mark.parametrize(
    ("options", "is_given"),
    [("hours=20 volume=10M", True), ("volume=10M", False), ("hosting_hours=730", False)],
)
def test_staff_time_is_given_by_the_option_hours(options: str, is_given: bool) -> None:
    assert replace(PREDICTED, asked=options).is_time_said == is_given


@pytest.mark.parametrize(
    "plan", [PLAN, replace(PLAN, predicted=PREDICTED, stopping=STOPPING), replace(PLAN, swept=SWEPT)]
)
def test_a_stored_plan_is_restored(plan: Plan) -> None:
    assert plan_from_json(canonical_json(plan)) == plan


def test_a_plan_from_before_predictions_loads_and_keeps_its_hash() -> None:
    stored = json.loads(canonical_json(PLAN))
    assert not set(LATER) & set(stored)
    restored = plan_from_json(json.dumps(stored))
    assert restored == PLAN and restored.predicted is None
    assert plan_hash(restored) == OLD_HASH


def test_a_verdict_from_before_unmeasured_models_keeps_its_hash() -> None:
    advised = replace(PLAN, predicted=replace(PREDICTED, advised=NOT_DECIDED))
    stored = json.loads(canonical_json(advised))["predicted"]["advised"]
    assert not {"unmeasured", "task"} & stored.keys(), "so its bytes and its hash are those of then"


def test_chosen_settings_are_those_that_differ_from_the_run_before() -> None:
    first = builders.plan(hyperparameters=(("lora_r", 16), ("n_epochs", 3)))
    second = builders.plan(hyperparameters=(("lora_r", 64), ("n_epochs", 3)))
    assert chosen_settings(first, None) == ()
    assert chosen_settings(second, None) == (ChangedSetting("lora_r", 64, None),)
    assert chosen_settings(second, first) == (ChangedSetting("lora_r", 64, 16),)
    assert chosen_settings(first, second) == (ChangedSetting("lora_r", 16, 64),), "it is back at the default"
    assert chosen_settings(second, second) == ()


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"asked_at": 5.0, "requester": "U9", "maximum_micros": 9, "predicted": PREDICTED}, True),
        ({"train_sha256": "e" * 64}, False),
        ({"base_model": "other"}, False),
        ({"method": "dpo"}, False),
        ({"hyperparameters": (("n_epochs", 4),)}, False),
        ({"swept": SWEPT}, False),
        ({"stopping": STOPPING}, False),
    ],
)
def test_the_same_rows_and_settings_train_the_same_model(changes: dict[str, Any], is_same: bool) -> None:
    assert trains_the_same(replace(PLAN, **changes), PLAN) == is_same


@pytest.mark.parametrize(
    "changed",
    [{"quality": 0.85}, {"alternative_micros": None}, {"asked": "current=gpt-4o"}, {"measured": ()}],
)
def test_the_prediction_is_part_of_the_hash(changed: dict[str, Any]) -> None:
    foreseen = replace(PLAN, predicted=PREDICTED)
    other = replace(PLAN, predicted=replace(PREDICTED, **changed))
    assert plan_hash(other) != plan_hash(foreseen)


TEXT = st.text(max_size=30)


@settings(max_examples=50)
@given(
    system=st.none() | TEXT,
    labels=st.lists(TEXT, max_size=4).map(tuple),
    values=st.dictionaries(TEXT, st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT),
    epochs=st.integers(1, 50),
    asked_at=st.floats(0, 1e12),
)
def test_any_plan_is_restored_and_keeps_its_hash(
    system: str | None, labels: tuple[str, ...], values: dict[str, Any], epochs: int, asked_at: float
) -> None:
    chosen = tuple(sorted({**values, "n_epochs": epochs}.items()))
    plan = replace(PLAN, system=system, labels=labels, hyperparameters=chosen, asked_at=asked_at)
    restored = plan_from_json(canonical_json(plan))
    assert restored == plan
    assert plan_hash(restored) == plan_hash(plan)


def test_the_hash_is_independent_of_the_order_of_json_keys() -> None:
    shuffled = json.dumps(dict(reversed(json.loads(canonical_json(PLAN)).items())), indent=1)
    assert plan_hash(plan_from_json(shuffled)) == plan_hash(PLAN)


def test_a_plan_s_key_is_the_start_of_its_hash() -> None:
    digest = plan_hash(PLAN)
    assert plan_key(digest) == f"ft-{digest[:24]}"
    assert len(plan_key(digest)) == 27


@pytest.mark.parametrize(
    "wrong",
    [
        (("n_epochs", "auto"),),
        (("n_epochs", True),),
        (("batch_size", 8),),
        (("n_epochs", 1), ("batch_size", 8)),
        (("n_epochs", 1), ("n_epochs", 2)),
    ],
)
def test_a_plan_needs_whole_epochs_and_sorted_hyperparameters(wrong: tuple[tuple[str, Any], ...]) -> None:
    with pytest.raises(ValueError, match="plan's"):
        replace(PLAN, hyperparameters=wrong)


@pytest.mark.parametrize(
    ("rows", "epochs"), [(0, 10), (100, 6), (200, 3), (999, 3), (1000, 2), (1999, 2), (2000, 1)]
)
def test_a_small_dataset_gets_more_epochs(rows: int, epochs: int) -> None:
    assert epochs_for(rows) == epochs
    assert hosted_epochs_for(rows) == min(epochs, 3)


def test_our_own_trainer_gets_all_hyperparameters_and_a_hosted_one_the_epochs() -> None:
    ours = dict(hyperparameters_for(800, {}, takes_lora=True, defaults={}, rate=2e-4))
    assert ours == {
        "n_epochs": 3,
        "batch_size": 8,
        "learning_rate": 2e-4,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
    }
    assert "learning_rate" not in dict(hyperparameters_for(800, {}, takes_lora=True, defaults={}))
    assert hyperparameters_for(800, {}, takes_lora=False, defaults={}) == (("n_epochs", 3),)


def test_options_override_settings_and_settings_override_our_defaults() -> None:
    defaults = {"n_epochs": 5, "lora_r": 8}
    by_settings = dict(hyperparameters_for(800, {}, takes_lora=True, defaults=defaults))
    assert (by_settings["n_epochs"], by_settings["lora_r"]) == (5, 8)
    by_person = dict(
        hyperparameters_for(800, {"n_epochs": 1, "lora_r": 4}, takes_lora=True, defaults=defaults)
    )
    assert (by_person["n_epochs"], by_person["lora_r"], by_person["lora_alpha"]) == (1, 4, 8)


def test_hyperparameters_are_sorted_for_the_hash() -> None:
    chosen = hyperparameters_for(800, {}, takes_lora=True, defaults={"a_first": 1})
    assert list(chosen) == sorted(chosen)
    replace(PLAN, hyperparameters=chosen)


def test_canonical_json_is_sorted_and_has_no_spaces() -> None:
    text = canonical_json(PLAN)
    keys = list(json.loads(text))
    assert keys == sorted(keys)
    assert '": ' not in text
