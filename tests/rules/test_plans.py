from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.rules.plans import (
    Destination,
    EarlyStopping,
    Plan,
    SweepPlan,
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
}
# Of PLAN, by the release that knew no predictions.
OLD_HASH = "ed1db3666fcf6642494c9c497c1af7aae51ec12ef7ab23ee554808912a68ba6f"

OTHER_HYPERPARAMETERS = (
    (("batch_size", 8), ("learning_rate", 0.001), ("n_epochs", 2)),
    (("batch_size", 16), ("learning_rate", 0.001), ("n_epochs", 3)),
    (("batch_size", 8), ("learning_rate", 0.002), ("n_epochs", 3)),
    (("n_epochs", 3),),
)


def changes() -> list[tuple[str, Any]]:
    """Another value for each field, of the same type."""
    found: list[tuple[str, Any]] = [("hyperparameters", other) for other in OTHER_HYPERPARAMETERS]
    for field in fields(Plan):
        value = getattr(PLAN, field.name)
        if field.name == "hyperparameters":
            continue
        if field.name in LATER:
            found.append((field.name, LATER[field.name]))
            continue
        if isinstance(value, str):
            found += [(field.name, value + "x"), (field.name, value.upper() + " ")]
        elif isinstance(value, tuple):
            found += [(field.name, value[::-1]), (field.name, value[:1]), (field.name, (*value, ""))]
        elif value is None:
            found.append((field.name, 0))
        else:
            found.append((field.name, value + 1))
    return found


def test_the_verdict_is_part_of_what_is_approved() -> None:
    told = replace(PLAN, predicted=replace(PREDICTED, advised=NOT_DECIDED))
    assert plan_from_json(canonical_json(told)) == told
    unmeasured = replace(NOT_DECIDED, best=None)
    for other in (
        None,
        unmeasured,
        replace(NOT_DECIDED, kind="go"),
        replace(NOT_DECIDED, reason="Nothing speaks against it."),
    ):
        another = replace(told, predicted=replace(PREDICTED, advised=other))
        assert plan_hash(another) != plan_hash(told)
        assert plan_from_json(canonical_json(another)) == another


def test_a_plan_of_before_verdicts_were_kept_keeps_its_hash_and_is_not_advised() -> None:
    old = replace(PLAN, predicted=PREDICTED)
    assert "advised" not in canonical_json(old)
    assert old.advised is None and not old.is_advised and not PLAN.is_advised
    assert replace(PLAN, predicted=replace(PREDICTED, advised=replace(NOT_DECIDED, kind="go"))).is_advised
    assert not replace(PLAN, predicted=replace(PREDICTED, advised=NOT_DECIDED)).is_advised


@pytest.mark.parametrize(
    ("asked", "is_said"),
    [("hours=20 volume=10M", True), ("volume=10M", False), ("hosting_hours=730", False), ("", False)],
)
def test_whether_peoples_time_was_said(asked: str, is_said: bool) -> None:
    assert replace(PREDICTED, asked=asked).is_time_said == is_said


def test_every_field_is_tried() -> None:
    assert {name for name, _ in changes()} == {field.name for field in fields(Plan)}


@pytest.mark.parametrize(("name", "value"), changes())
def test_whoever_changes_a_field_has_another_plan(name: str, value: Any) -> None:
    assert plan_hash(replace(PLAN, **{name: value})) != plan_hash(PLAN)


def test_a_system_prompt_that_is_empty_is_not_one_that_is_absent() -> None:
    assert plan_hash(replace(PLAN, system="")) != plan_hash(replace(PLAN, system=None))


@pytest.mark.parametrize(
    "plan", [PLAN, replace(PLAN, predicted=PREDICTED, stopping=STOPPING), replace(PLAN, swept=SWEPT)]
)
def test_a_plan_survives_being_stored(plan: Plan) -> None:
    assert plan_from_json(canonical_json(plan)) == plan


def test_a_plan_of_before_there_were_predictions_loads_and_keeps_its_hash() -> None:
    stored = json.loads(canonical_json(PLAN))
    assert not set(LATER) & set(stored)
    again = plan_from_json(json.dumps(stored))
    assert again == PLAN and again.predicted is None
    assert plan_hash(again) == OLD_HASH


@pytest.mark.parametrize(
    "changed",
    [
        {"quality": 0.85},
        {"p_payback": 0.88},
        {"alternative": "retrieval"},
        {"alternative_micros": None},
        {"asked": "current=gpt-4o"},
        {"measured": ()},
    ],
)
def test_whoever_changes_a_prediction_has_another_plan(changed: dict[str, Any]) -> None:
    foreseen = replace(PLAN, predicted=PREDICTED)
    other = replace(PLAN, predicted=replace(PREDICTED, **changed))
    assert plan_hash(other) != plan_hash(foreseen)


TEXT = st.text(max_size=30)


@given(
    system=st.none() | TEXT,
    labels=st.lists(TEXT, max_size=4).map(tuple),
    values=st.dictionaries(TEXT, st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT),
    epochs=st.integers(1, 50),
    asked_at=st.floats(0, 1e12),
)
def test_any_plan_survives_and_keeps_its_hash(
    system: str | None,
    labels: tuple[str, ...],
    values: dict[str, Any],
    epochs: int,
    asked_at: float,
) -> None:
    chosen = tuple(sorted({**values, "n_epochs": epochs}.items()))
    plan = replace(PLAN, system=system, labels=labels, hyperparameters=chosen, asked_at=asked_at)
    again = plan_from_json(canonical_json(plan))
    assert again == plan
    assert plan_hash(again) == plan_hash(plan)


def test_the_hash_does_not_hang_on_the_order_in_which_json_was_written() -> None:
    shuffled = json.dumps(dict(reversed(json.loads(canonical_json(PLAN)).items())), indent=1)
    assert plan_hash(plan_from_json(shuffled)) == plan_hash(PLAN)


def test_the_key_is_made_of_the_hash() -> None:
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
def test_a_plan_without_whole_epochs_or_order_is_a_fault(wrong: tuple[tuple[str, Any], ...]) -> None:
    with pytest.raises(ValueError, match="plan's"):
        replace(PLAN, hyperparameters=wrong)


@pytest.mark.parametrize(
    ("rows", "epochs"),
    [(0, 10), (10, 10), (100, 6), (200, 3), (999, 3), (1000, 2), (1999, 2), (2000, 1), (10**6, 1)],
)
def test_a_small_set_is_seen_more_often(rows: int, epochs: int) -> None:
    assert epochs_for(rows) == epochs
    assert hosted_epochs_for(rows) == min(epochs, 3)


def test_our_own_trainer_is_told_everything_and_a_hosted_one_the_epochs() -> None:
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


def test_a_persons_epochs_win_over_the_settings_and_these_over_ours() -> None:
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
