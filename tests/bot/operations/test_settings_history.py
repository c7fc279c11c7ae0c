"""What changed in finetune.toml is in the audit log from the next start on."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from bot.rules.permissions import Policy, Tier
from bot.services.common.settings_history import record_changes
from bot.settings import BudgetSettings, Settings, SlackSettings, TrainerSettings, load_settings
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


def test_prices_that_the_file_sets_are_recorded_and_shipped_ones_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path / "finetune.db")
    file = tmp_path / "finetune.toml"

    def changes(text: str) -> dict[str, str]:
        file.write_text(text, encoding="utf-8")
        settings = load_settings({}, file, need_slack=False)
        before = len(store.audit.entries())
        record_changes(store, settings, now=1.0)
        entries = store.audit.entries()[before:]
        return {
            entry.subject: entry.detail
            for entry in entries
            if "price" in entry.subject or "gpt" in entry.subject
        }

    assert changes("") == {}
    own = '[prices."house/big"]\ninput = "2"\noutput = "8"\n'
    vendors = '[providers.openai.models."gpt-4.1-mini-2025-04-14"]\ntraining = "7"\n'
    recorded = changes(own + vendors)
    assert set(recorded) == {"setting prices.house/big", "setting providers.openai.gpt-4.1-mini-2025-04-14"}
    assert '"training": "7"' in recorded["setting providers.openai.gpt-4.1-mini-2025-04-14"]
    assert changes(own + vendors) == {}
    (detail,) = changes(own.replace('"8"', '"9"') + vendors).values()
    assert detail.index('"output": "9"') < detail.index("before") < detail.index('"output": "8"')
    assert set(changes("")) == set(recorded), "a price that is taken out"
    store.close()
