"""The rows of providers: those that ship, a user's changes, refused values, and which models may be tuned."""

from __future__ import annotations

import tomllib
from datetime import date
from decimal import Decimal

import pytest

from trainers.client.client import find_key
from trainers.providers.providers import ProviderProblems, ProviderRow, load_providers, model_verdict
from trainers.types import Price

TODAY = date(2026, 11, 24)


def row(name: str, own: str = "") -> ProviderRow:
    rows = load_providers(tomllib.loads(own).get("providers"))
    return next(row for row in rows if row.name == name)


def problems(own: str) -> tuple[str, ...]:
    with pytest.raises(ProviderProblems) as caught:
        load_providers(tomllib.loads(own)["providers"])
    return caught.value.problems


def test_some_shipped_rows_train_and_others_only_answer() -> None:
    rows = load_providers()
    trains = [row.name for row in rows if row.trains]
    assert trains == ["local", "openai", "nebius", "crusoe", "azure", "fireworks", "together", "tinker"]
    chats = {row.name: row for row in rows if not row.trains}
    assert list(chats) == [
        "openrouter",
        "groq",
        "google",
        "anthropic",
        "coreweave",
        "fireworks-serverless",
        "tinker-inference",
        "vllm",
        "ollama",
    ]
    assert [name for name, row in chats.items() if row.provider.key_env is None] == ["vllm", "ollama"]
    assert all(row.keeps_models_here == (row.provider.key_env is None) for row in chats.values())


def test_a_provider_that_has_closed_trains_nothing_and_says_since_when() -> None:
    fireworks = row("fireworks")
    before, after = (model_verdict(fireworks, fireworks.models[0], date(2026, 11, day)) for day in (14, 15))
    assert before.may_train and not before.is_closed
    assert after.is_closed and not after.may_train
    assert after.reasons[0] == (
        "Fireworks AI has accepted no new fine-tuning jobs since 2026-11-15 (Fireworks' changelog of 2026-11-15)."
    )
    assert "crusoe/llama-3.1-8b" in str(after.way_out)
    assert fireworks.provider.can("deploy"), "models that were trained before can still be deployed"


def test_a_provider_that_closed_to_idle_accounts_says_so_before_a_plan() -> None:
    openai = row("openai")
    model = openai.model("gpt-4.1-mini")
    assert model is not None
    early, late = (model_verdict(openai, model, date(2026, 7, day)) for day in (1, 2))
    assert not any("within 60 days" in reason for reason in early.reasons)
    assert late.may_train and late.reasons[-1] == (
        "Since 2026-07-02, OpenAI takes jobs only from organisations that have asked a tuned model there within 60 "
        "days (OpenAI's deprecations page); if yours has not, it refuses the job, at no cost."
    )


def test_a_model_on_a_users_own_machine_needs_no_row() -> None:
    model = row("ollama").unlisted_model("llama3.2")
    assert model is not None and model.usd_per_hour == 0
    assert row("ollama", '[providers.ollama]\nusd_per_hour = "0.5"').usd_per_hour == Decimal("0.5")
    assert row("groq").unlisted_model("llama3.2") is None


@pytest.mark.parametrize(
    ("provider", "model", "does_think"),
    [
        ("groq", "openai/gpt-oss-20b", True),
        ("google", "gemini-2.5-flash-lite", True),
        ("openrouter", "google/gemini-2.5-flash-lite", True),
        ("anthropic", "claude-haiku-5-5", True),
        ("anthropic", "claude-sonnet-5-5", False),
        ("openai", "gpt-6-luna", False),
        ("openai", "gpt-6-luna@low", True),
    ],
)
def test_the_list_states_whether_a_model_thinks(provider: str, model: str, does_think: bool) -> None:
    assert row(provider).thinks(model) is does_think


@pytest.mark.parametrize(
    ("model", "training", "tuned", "ends"),
    [
        ("gpt-4.1-2025-04-14", "25", ("3.00", "0.75", "12.00"), date(2027, 1, 14)),
        ("gpt-4.1-mini-2025-04-14", "5", ("0.80", "0.20", "3.20"), date(2027, 1, 14)),
        ("gpt-4.1-nano-2025-04-14", "1.50", ("0.20", "0.05", "0.80"), date(2026, 10, 23)),
        ("gpt-4o-2024-08-06", "25", ("3.75", "1.875", "15.00"), date(2027, 1, 14)),
        ("gpt-4o-mini-2024-07-18", "3", ("0.30", "0.15", "1.20"), date(2027, 1, 14)),
    ],
)
def test_shipped_prices_and_ends_are_exact(
    model: str, training: str, tuned: tuple[str, str, str], ends: date
) -> None:
    listed = row("openai").model(model)
    assert listed is not None
    assert listed.price == Price(*map(Decimal, (training, *tuned)))
    assert listed.ends == ends


@pytest.mark.parametrize(
    "name", ["gpt-4o-mini", "gpt-4o-mini-2024-07-18", "ft:gpt-4o-mini-2024-07-18:org::a1"]
)
def test_a_model_is_found_by_name_alias_and_fine_tune_but_not_guessed(name: str) -> None:
    model = row("openai").model(name)
    assert model is not None and model.name == "gpt-4o-mini-2024-07-18"
    assert row("openai").model("gpt-4o-mini-2") is None


def test_the_local_trainer_gets_its_address_once_it_runs() -> None:
    local = row("local")
    assert local.is_started_by_us
    assert local.at_address("http://127.0.0.1:8123/v1").provider.base_url == "http://127.0.0.1:8123/v1"
    assert local.at_address("http://127.0.0.1:8123/v1").is_started_by_us


def test_a_users_row_is_added_to_the_shipped_ones() -> None:
    own = """
        [providers.gpubox]
        title = "GPU box"
        base_url = "https://gpu-box.example/v1/"
        key_env = "GPUBOX_KEY"
        timeout_s = 60
        abilities = ["metadata", "chat"]
        [providers.gpubox.models."qwen-7b"]
        usd_per_hour = "2.49"
    """
    box = row("gpubox", own)
    assert box.provider.base_url == "https://gpu-box.example/v1"
    assert box.provider.timeout_s == 60
    assert box.provider.abilities == {"metadata", "chat"}
    assert box.models[0].usd_per_hour == Decimal("2.49")


def test_an_override_changes_only_what_it_names() -> None:
    own = """
        [providers.openai]
        key_env = "TEAM_KEY"
        [providers.openai.models."gpt-4o-mini-2024-07-18"]
        input = "0.10"
    """
    changed = row("openai", own)
    model = changed.model("gpt-4o-mini")
    assert changed.provider.key_env == "TEAM_KEY"
    assert changed.closes == date(2027, 1, 6)
    assert len(changed.models) == 5
    assert model is not None
    assert (model.price.input, model.price.output) == (Decimal("0.10"), Decimal("1.20"))


@pytest.mark.parametrize("amount", ["'-5'", "'1e30'", "'NaN'", "'Infinity'", "'cheap'", "true", "0.1"])
def test_a_price_that_is_no_amount_of_money_is_refused(amount: str) -> None:
    own = f"[providers.openai.models.x]\ninput = {amount}"
    assert "providers.openai.models.x.input: should be US dollars in quotes" in problems(own)[0]


def test_a_price_without_quotes_is_exact_if_it_is_parsed_as_a_decimal() -> None:
    own = "[providers.openai.models.x]\ninput = 0.1"
    exact = load_providers(tomllib.loads(own, parse_float=Decimal)["providers"])
    assert next(model for model in exact[1].models if model.name == "x").price.input == Decimal("0.1")


def test_every_problem_is_reported_at_once_with_row_and_key() -> None:
    lines = problems("""
        [providers.box]
        titel = "Box"
        abilities = ["chatt", "sufix"]
        timeout_s = 0
        closes = "soon"
        [providers.box.models.m]
        ends = 2027
        aliases = "one"
    """)
    assert [line.split(": ")[0] for line in lines] == [
        "providers.box.base_url",
        "providers.box.abilities",
        "providers.box.abilities",
        "providers.box.timeout_s",
        "providers.box.closes",
        "providers.box.titel",
        "providers.box.models.m.aliases",
        "providers.box.models.m.ends",
    ]
    assert "did you mean chat?" in lines[1]
    assert "did you mean suffix?" in lines[2]
    assert "did you mean title?" in lines[5]
    assert problems("[providers]\nopenai = 3") == ("providers.openai: should be a table of keys, not 3.",)


def test_a_key_instead_of_its_variable_is_refused_and_not_repeated() -> None:
    (problem,) = problems('[providers.openai]\nkey_env = "sk-proj-abc123"')
    assert "should be the name of the environment variable" in problem
    assert "abc123" not in problem


def test_a_model_past_its_end_is_refused_and_a_local_one_has_no_end() -> None:
    openai = row("openai")
    verdict = model_verdict(openai, openai.model("gpt-4.1-nano"), TODAY)  # type: ignore[arg-type]
    assert not verdict.may_train
    assert "ended on 2026-10-23" in verdict.reasons[0]
    assert verdict.way_out and "local/" in verdict.way_out
    local = row("local")
    assert model_verdict(local, local.models[0], date(2040, 1, 1), 9_999).level == "ok"


@pytest.mark.parametrize(
    ("today", "payback_days", "level", "reason"),
    [
        (date(2026, 6, 1), None, "ok", ""),
        (date(2026, 9, 1), 200.0, "warn", "takes 200 days to pay for itself"),
        (date(2026, 6, 1), 100.0, "ok", ""),
        (date(2026, 11, 8), None, "warn", "accepts new jobs only until 2027-01-06"),
        (date(2026, 11, 24), None, "warn", "end on 2027-01-14, in 51 days"),
        (date(2027, 1, 6), None, "warn", "in 8 days"),
        (date(2027, 1, 7), None, "refuse", "no new fine-tuning jobs since 2027-01-07"),
        (date(2027, 1, 14), None, "refuse", "ended on 2027-01-14"),
    ],
)
def test_the_verdict_follows_end_closing_and_payback(
    today: date, payback_days: float | None, level: str, reason: str
) -> None:
    openai = row("openai")
    model = openai.model("gpt-4o-mini")
    assert model is not None
    verdict = model_verdict(openai, model, today, payback_days)
    assert verdict.level == level
    assert reason in " ".join(verdict.reasons)


def test_a_vendor_is_asked_within_a_rate_that_settings_can_change() -> None:
    assert (row("local").callers, row("local").requests_per_minute) == (32, None)
    assert (row("openai").callers, row("openai").requests_per_minute) == (8, 500)
    own = "[providers.openai]\ncallers = 2\nrequests_per_minute = 60\n[providers.local]\nrequests_per_minute = 30"
    assert (row("openai", own).callers, row("openai", own).requests_per_minute) == (2, 60)
    assert (row("local", own).callers, row("local", own).requests_per_minute) == (32, 30)


@pytest.mark.parametrize("value", ["0", "-3", "2.5", '"8"', "true"])
def test_callers_are_a_whole_number_above_zero(value: str) -> None:
    (problem,) = problems(f"[providers.openai]\ncallers = {value}")
    assert "providers.openai.callers: should be a whole number above 0" in problem


VENDOR = """
    [providers.acme]
    base_url = "https://train.acme.example/v1/accounts/{account}"
    chat_base_url = "https://chat.acme.example/v1/"
    key_env = "ACME_KEY"
    account_env = "ACME_ACCOUNT"
    dialect = "fireworks"
    model_lookup = "catalogue"
    hyperparameter_names = { lora_r = "lora_rank" }
    hyperparameter_limits = { n_epochs = [1, 20], batch_size = [16, 32, 64], learning_rate_multiplier = [] }
    suffix_length = 40
    create_extra = { trainingType = "GlobalStandard" }
    chat_extra = { chat_template_kwargs = { enable_thinking = false } }
    training_by_size = [{ up_to = 16, training = "0.50" }, { up_to = 80, training = "3.00" }, { training = "10.00" }]
    serving = "dedicated"
    serving_usd_per_hour = "5.50"
    idle_stop_s = 1800
    [providers.acme.models."Qwen3.5-9B-Instruct"]
    [providers.acme.models."qwen3-235b-a22b"]
    [providers.acme.models."big"]
    billions = 70
    [providers.acme.models."gpt-4o"]
    [providers.acme.models."fixed-8b"]
    training = "0.40"
"""


def test_a_row_describes_a_vendors_api() -> None:
    rows = load_providers(tomllib.loads(VENDOR)["providers"], {"ACME_ACCOUNT": "team-1"})
    acme = rows[-1].provider
    assert acme.base_url == "https://train.acme.example/v1/accounts/team-1"
    assert acme.chat_base_url == "https://chat.acme.example/v1"
    assert acme.hyperparameter_limits["batch_size"] == (16, 32, 64)
    assert acme.hyperparameter_limits["learning_rate_multiplier"] == ()
    assert acme.chat_extra == {"chat_template_kwargs": {"enable_thinking": False}}
    assert (acme.dialect, acme.suffix_length) == ("fireworks", 40)
    assert acme.variables == "ACME_KEY and ACME_ACCOUNT"
    assert find_key({"ACME_KEY": "k"}, acme) == "k"
    assert find_key({"ACME_KEY": "k"}, row("acme", VENDOR).provider) is None


def test_training_is_priced_by_the_models_size_if_its_row_has_no_price() -> None:
    prices = {model.name: model.price.training for model in row("acme", VENDOR).models}
    assert prices == {
        "Qwen3.5-9B-Instruct": Decimal("0.50"),
        "qwen3-235b-a22b": Decimal("10.00"),
        "big": Decimal("3.00"),
        "gpt-4o": None,
        "fixed-8b": Decimal("0.40"),
    }


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('dialect = "googlish"', "dialect: should be one of openai, together, fireworks"),
        ("suffix_length = 12", "suffix_length: should be a whole number from 24 to 256"),
        ('hyperparameter_limits = { lora_r = "8" }', "lora_r: should be numbers: [lowest, highest]"),
        (
            "training_by_size = [{ up_to = 16 }]",
            "training: is missing: US dollars per million tokens, in quotes",
        ),
        ('account_env = "my account"', "account_env: should be the name of the environment variable"),
        (
            'serving = "somehow"',
            "serving: should be one of included, adapter, dedicated, download, on_request",
        ),
        ("idle_stop_s = 0", "idle_stop_s: should be a whole number above 0"),
    ],
)
def test_a_wrong_value_of_a_vendors_row_is_reported(line: str, sentence: str) -> None:
    (problem,) = problems(f'[providers.acme]\nbase_url = "https://acme.example/v1"\n{line}')
    assert sentence in problem
