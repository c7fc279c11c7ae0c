"""What changed in finetune.toml is in the audit log from the next start on."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from bot.rules.permissions import Policy, Tier
from bot.services.settings_history import record_changes
from bot.settings import BudgetSettings, Settings, SlackSettings, TrainerSettings
from storage.store import Store


def test_each_change_of_money_people_and_places_is_recorded_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "finetune.db")
    first = Settings(
        data=tmp_path,
        slack=SlackSettings(bot_token="xoxb-secret", fallback_channel="C0OPS"),
        policy=Policy(tiers=(Tier(None, 2),)),
        trainer=TrainerSettings(),
        providers=(),
        prices=(),
        budget=BudgetSettings(monthly_usd=Decimal("500")),
    )

    def changes(settings: Settings) -> dict[str, str]:
        before = len(store.audit.entries())
        record_changes(store, settings, now=1.0)
        return {entry.subject: entry.detail for entry in store.audit.entries()[before:]}

    recorded = changes(first)
    assert set(recorded) == {
        "setting budget.monthly_usd",
        "setting policy.tiers",
        "setting slack.fallback_channel",
    }
    assert "secret" not in str(recorded)
    assert changes(first) == {}
    lowered = replace(first, policy=Policy(), budget=BudgetSettings(monthly_usd=Decimal("500.00")))
    (detail,) = changes(lowered).values()
    assert detail.index('"approvers": 1') < detail.index("before") < detail.index('"approvers": 2')
    assert changes(replace(lowered, slack=SlackSettings())) == {
        "setting slack.fallback_channel": 'null, before "C0OPS"'
    }
    store.close()
