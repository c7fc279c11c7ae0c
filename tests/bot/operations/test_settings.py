"""Settings: all mistakes are reported at once, each with its place and fix, and tokens are never shown."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from decimal import Decimal
from pathlib import Path

import pytest
from dotenv import dotenv_values

from bot.resources import read_resource
from bot.settings import SLACK_API, Settings, SettingsProblems, collect_secrets, load_settings
from trainers.packages import install_line

TOKENS = {"SLACK_BOT_TOKEN": "xoxb-canary-bot", "SLACK_APP_TOKEN": "xapp-canary-app"}
SECRET = {"SLACK_SIGNING_SECRET": "canary-signing"}


def write_config(folder: Path, toml: str = "") -> Path:
    path = folder / "finetune.toml"
    path.write_text(toml, encoding="utf-8")
    return path


def read(folder: Path, toml: str = "", **environment: str) -> Settings:
    return load_settings({**TOKENS, **environment}, write_config(folder, toml))


def problems(folder: Path, toml: str = "", environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsProblems) as error:
        load_settings(TOKENS if environment is None else environment, write_config(folder, toml))
    assert str(error.value) == "\n".join(error.value.problems)
    return list(error.value.problems)


def only_problem(folder: Path, toml: str = "", environment: dict[str, str] | None = None) -> str:
    (problem,) = problems(folder, toml, environment)
    return problem


def test_tokens_alone_give_usable_defaults(tmp_path: Path) -> None:
    settings = read(tmp_path)
    assert (settings.slack.mode, settings.slack.api_url, settings.slack.blocks) == (
        "socket",
        SLACK_API,
        "newest",
    )
    assert (settings.policy.named("approve").is_nobody, settings.policy.tiers[0].approvers) == (True, 1)
    assert settings.budget.monthly_usd == 0
    assert settings.database == tmp_path / "data" / "finetune.db"
    assert settings.files == tmp_path / "data" / "files"
    assert {row.name for row in settings.providers} >= {"local", "openai"}
    assert settings.prices == ()


def test_every_setting_is_read(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        """
data = "elsewhere"
[slack]
mode = "http"
port = 3100
api_url = "http://127.0.0.1:9/api/"
fallback_channel = "C9"
blocks = "classic"
[people]
approvers = ["U1", "U2"]
approver_groups = ["S1"]
quorum = 2
[budget]
monthly_usd = "200.50"
[trainer]
models = { tiny = "models/tiny" }
port = 8021
slots = 2
usd_per_hour = "0.10"
tokens_per_second = 900
""",
        **SECRET,
    )
    slack = settings.slack
    policy = settings.policy
    trainer = settings.trainer
    assert settings.data == tmp_path / "elsewhere"
    assert (slack.mode, slack.port, slack.api_url) == ("http", 3100, "http://127.0.0.1:9/api/")
    assert (slack.fallback_channel, slack.blocks) == ("C9", "classic")
    named = policy.named("approve")
    assert named.users == {"U1", "U2"} and named.groups == {"S1"} and policy.tiers[0].approvers == 2
    assert settings.budget.monthly_usd == Decimal("200.50")
    assert (dict(trainer.models), trainer.port, trainer.slots) == ({"tiny": "models/tiny"}, 8021, 2)
    assert (trainer.usd_per_hour, trainer.tokens_per_second) == (Decimal("0.10"), 900)


@pytest.mark.parametrize(
    ("lines", "base_url"),
    [
        ("", "http://127.0.0.1:8024/v1"),
        ('address = ""', None),
        ('address = "0.0.0.0:9000"', "http://127.0.0.1:9000/v1"),
        ('address = "[::1]:9000"', "http://[::1]:9000/v1"),
        ('url = "https://models.example.com/v1/"', "https://models.example.com/v1"),
    ],
)
def test_programs_are_told_an_address_that_they_can_call(
    lines: str, base_url: str | None, tmp_path: Path
) -> None:
    assert read(tmp_path, f"[serving]\n{lines}\n").serving.base_url == base_url


@pytest.mark.parametrize("address", ["8024", "localhost", "localhost:0", ":8024", "localhost:99999"])
def test_an_address_for_programs_has_a_host_and_a_port(address: str, tmp_path: Path) -> None:
    problem = only_problem(tmp_path, f'[serving]\naddress = "{address}"\n')
    assert 'should be HOST:PORT, like "127.0.0.1:8024", or "" for none' in problem


def test_the_model_that_reads_questions_has_a_cap_for_a_day(tmp_path: Path) -> None:
    assert (read(tmp_path).assistant.model, read(tmp_path).assistant.daily_usd) == ("", Decimal(1))
    lines = '[assistant]\nmodel = "openai/gpt-4o-mini"\ndaily_usd = "0.50"\n'
    assistant = read(tmp_path, lines).assistant
    assert (assistant.model, assistant.provider, assistant.daily_usd) == (
        "openai/gpt-4o-mini",
        "openai",
        Decimal("0.50"),
    )
    own = '[trainer.models]\ntiny = "models/tiny"\n[assistant]\nmodel = "local/tiny"\n'
    assert read(tmp_path, own).assistant.model == "local/tiny"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('model = "gpt-4o-mini"', 'should be a model with its provider, like "openai/gpt-4o-mini"'),
        ('model = "opnai/gpt-4o-mini"', "names the provider 'opnai', which is none of "),
        ('model = "local/other"', "is 'local/other', which is not under [trainer.models]; add it there"),
        ('model = "local/minilm-encoder"', "an encoder, which answers no questions; name another model."),
        ('daily_usd = "lots"', "[assistant] daily_usd should be"),
        ('daily_usd = "-1"', "[assistant] daily_usd should be"),
        ('limit = "1"', "limit"),
    ],
)
def test_a_model_for_questions_that_cannot_be_asked_is_a_problem(
    lines: str, problem: str, tmp_path: Path
) -> None:
    assert problem in only_problem(tmp_path, f"[assistant]\n{lines}\n")


def test_settings_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    with pytest.raises(FrozenInstanceError):
        read(tmp_path).data = tmp_path  # type: ignore[misc]


ENCODER = "--encoder minilm-encoder=all-minilm-l6-v2"


@pytest.mark.parametrize(
    ("lines", "arguments"),
    [
        ("", f"--gpus-per-job 1 {ENCODER}"),
        ("gpus_per_job = 4", f"--gpus-per-job 4 {ENCODER}"),
        ('[serving]\nengine = "vllm"', f"--gpus-per-job 1 --serving-engine vllm {ENCODER}"),
        ('executor = "ray"\nray_shared = true', "--gpus-per-job 1 --executor ray --ray-shared"),
        (
            'executor = "ray"\nnodes_per_job = 2\ngpus_per_job = 8',
            "--gpus-per-job 8 --nodes-per-job 2 --executor ray",
        ),
        ('executor = "ray"\nnodes_per_job = 2', "--gpus-per-job 2 --nodes-per-job 2 --executor ray"),
        (
            'executor = "ray"\nray_address = "http://ray:8265"\nstorage = "s3://bucket/team"',
            "--gpus-per-job 1 --executor ray --ray-address http://ray:8265 --storage s3://bucket/team",
        ),
    ],
)
def test_the_trainers_command_line_says_where_jobs_run(lines: str, arguments: str, tmp_path: Path) -> None:
    settings = read(tmp_path, f"[trainer]\n{lines}\n")
    assert " ".join(settings.trainer.arguments) == arguments
    on_cluster = 8 if "nodes_per_job" in lines else 64
    assert settings.trainer.slots == (on_cluster if "ray" in lines else 1)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            "nodes_per_job = 2",
            'line 2: [trainer] nodes_per_job needs a cluster: also set executor = "ray", or remove it.',
        ),
        (
            'storage = "s3://bucket/finetune"',
            'line 2: [trainer] storage needs a cluster: also set executor = "ray", or remove it.',
        ),
        (
            'executor = "ray"\nnodes_per_job = 2\ngpus_per_job = 3',
            "line 4: [trainer] gpus_per_job can't be divided evenly among 2 nodes: it counts all GPUs of a job, "
            "which is 3 now. Set it to 4.",
        ),
    ],
)
def test_storage_and_nodes_need_a_cluster_and_each_node_as_many_gpus(
    lines: str, problem: str, tmp_path: Path
) -> None:
    assert only_problem(tmp_path, f"[trainer]\n{lines}\n") == f"finetune.toml, {problem}"


def test_a_base_model_has_another_name_than_the_encoder(tmp_path: Path) -> None:
    problem = "[trainer.models] {} is the encoder's name. Choose another name for this base model."
    packaged = only_problem(tmp_path, '[trainer.models]\nminilm-encoder = "models/tiny"\n')
    assert packaged == "finetune.toml, line 2: " + problem.format("minilm-encoder")
    own = '[encoder]\nmodel = "models/Small"\n'
    assert problem.format("small") in only_problem(
        tmp_path, f'{own}[trainer.models]\nsmall = "models/tiny"\n'
    )
    on_cluster = '[trainer]\nexecutor = "ray"\nmodels = { minilm-encoder = "models/tiny" }\n'
    assert read(tmp_path, on_cluster).trainer.models == {"minilm-encoder": "models/tiny"}


def test_our_own_trainer_offers_the_named_models_at_their_price(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        '[trainer]\nusd_per_hour = "0.10"\n[trainer.models]\n"smollm2-135m" = "a"\nmine = "b"\n',
    )
    local = settings.provider("local")
    assert local is not None
    assert [model.name for model in local.models] == ["smollm2-135m", "mine", "minilm-encoder"]
    assert {model.usd_per_hour for model in local.models} == {Decimal("0.10")}
    assert local.models[0].context == 8192, "what the presets know of a model stays"
    assert settings.provider("nobody") is None


def test_another_encoder_replaces_the_packaged_one(tmp_path: Path) -> None:
    settings = read(tmp_path, '[encoder]\nmodel = "intfloat/multilingual-E5-small"\n')
    row = settings.provider("local")
    assert row and [model.name for model in row.models if model.is_encoder] == ["multilingual-e5-small"]
    argument = "--encoder multilingual-e5-small=intfloat/multilingual-E5-small"
    assert argument in " ".join(settings.trainer.arguments)


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    mistakes = problems(
        tmp_path,
        """
dat = "x"
[slack]
mode = "sockets"
port = 70000
[people]
approvers = "U1"
quorum = 0
[budget]
monthly_usd = 200.0
[trainer]
slots = true
[providers.mine]
title = "Mine"
[prices."gpt-x"]
input = 2.5
output = "10"
""",
        {"SLACK_BOT_TOKEN": "xapp-mixed-up"},
    )
    expected = (
        "SLACK_BOT_TOKEN should start with xoxb-",
        "SLACK_APP_TOKEN is not set: put it into .env",
        "finetune.toml, line 2: dat is not a setting; did you mean data?",
        "finetune.toml, line 4: [slack] mode should be one of socket, http, not 'sockets'.",
        "finetune.toml, line 5: [slack] port should be a whole number from 0 to 65535, not 70000.",
        'finetune.toml, line 7: [people] approvers should be ids of users, like ["U123", "U456"], not \'U1\'.',
        "finetune.toml, line 8: [people] quorum should be a whole number from 1 to 20, not 0.",
        'finetune.toml, line 10: [budget] monthly_usd should be US dollars in quotes, like "200.00", not 200.0.',
        "finetune.toml, line 12: [trainer] slots should be a whole number from 1 to 1024, not True.",
        "finetune.toml, line 13: [providers.mine] base_url is missing: the address of the API, like",
        'finetune.toml, line 16: [prices.gpt-x] input should be USD per 1M tokens in quotes, like "2.50", not 2.5.',
    )
    for sentence in expected:
        assert any(text.startswith(sentence) for text in mistakes), (sentence, mistakes)
    assert len(mistakes) == len(expected)


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ("[slack]\nmod = 'http'", "finetune.toml, line 2: [slack] mod is not a setting; did you mean mode?"),
        ("[peple]\nquorum = 1", "finetune.toml, line 1: [peple] is not a setting; did you mean people?"),
        (
            "[people]\naprovers = []",
            "finetune.toml, line 2: [people] aprovers is not a setting; did you mean approvers?",
        ),
        (
            "[budget]\nxyz = 1",
            "finetune.toml, line 2: [budget] xyz is not a setting; valid names are monthly_usd, measurement_usd, "
            "hosting_usd_per_day, per_channel_usd, per_person_usd, channels, people.",
        ),
        (
            "[providers.openai]\nbase_ur = 'https://x/v1'",
            "finetune.toml, line 2: [providers.openai] base_ur is not a setting; did you mean base_url?",
        ),
    ],
)
def test_an_unknown_setting_is_reported_with_the_nearest(tmp_path: Path, toml: str, problem: str) -> None:
    assert only_problem(tmp_path, toml) == problem


@pytest.mark.parametrize(
    ("toml", "place"),
    [
        ("data = 3", "data"),
        ("slack = 'socket'", "slack"),
        ("people = ['U1']", "people"),
        ("prices = 3", "prices"),
        ("[prices]\n'gpt-x' = '2.50'", "[prices] gpt-x"),
        ("[slack]\nfallback_channel = 9", "[slack] fallback_channel"),
        ("[people]\napprovers = ['U1', 2]", "[people] approvers"),
        ("[people]\nquorum = 1.0", "[people] quorum"),
        ("[people]\nquorum = 21", "[people] quorum"),
        ("[budget]\nmonthly_usd = '-1'", "[budget] monthly_usd"),
        ("[budget]\nmonthly_usd = 'NaN'", "[budget] monthly_usd"),
        ("[budget]\nmonthly_usd = '1e30'", "[budget] monthly_usd"),
        ("[budget]\nmonthly_usd = 'lots'", "[budget] monthly_usd"),
        ("[budget]\nmonthly_usd = true", "[budget] monthly_usd"),
        ("[trainer]\nmodels = ['a']", "[trainer] models"),
        ("[trainer]\nmodels = { a = 1 }", "[trainer.models] a"),
        ("[trainer]\ntokens_per_second = 0", "[trainer] tokens_per_second"),
        ("[slack]\nblocks = ['newest']", "[slack] blocks"),
    ],
)
def test_a_wrong_value_is_reported_with_its_place(tmp_path: Path, toml: str, place: str) -> None:
    line = toml.count("\n") + 1
    assert only_problem(tmp_path, toml).startswith(f"finetune.toml, line {line}: {place} should be ")


@pytest.mark.parametrize("amount", ["'200'", "200", "'200.00'", "0"])
def test_money_is_text_or_a_whole_number(tmp_path: Path, amount: str) -> None:
    settings = read(tmp_path, f"[budget]\nmonthly_usd = {amount}")
    assert settings.budget.monthly_usd == Decimal(amount.strip("'"))


def test_wrong_providers_are_reported_with_the_rest(tmp_path: Path) -> None:
    mistakes = problems(
        tmp_path,
        '[people]\nquorum = 0\n[providers.box]\nbase_url = "box:8021"\nabilities = ["progres"]\n',
    )
    assert len(mistakes) == 3
    text = "\n".join(mistakes)
    assert "[providers.box] base_url should be an address that starts with https://" in text
    assert "[providers.box] abilities should be abilities" in text and "did you mean progress?" in text


def test_own_prices_are_read_as_decimals(tmp_path: Path) -> None:
    (row,) = read(
        tmp_path,
        '[prices."acme/gpt-x"]\ninput = "2.10"\noutput = "8.40"\nas_of = 2026-11-01\nsource = "contract"\n',
    ).prices
    assert (row.model, row.price.input, row.price.output) == (
        "acme/gpt-x",
        Decimal("2.10"),
        Decimal("8.40"),
    )
    assert (row.source, str(row.as_of)) == ("contract", "2026-11-01")


@pytest.mark.parametrize(
    ("toml", "environment", "problem"),
    [
        ("", {"SLACK_APP_TOKEN": "xapp-1"}, "SLACK_BOT_TOKEN is not set"),
        ("", {"SLACK_BOT_TOKEN": "xoxb-1"}, "SLACK_APP_TOKEN is not set"),
        (
            "",
            {"SLACK_BOT_TOKEN": "xoxb-1", "SLACK_APP_TOKEN": "xoxb-1"},
            "SLACK_APP_TOKEN should start with xapp-",
        ),
        ("[slack]\nmode = 'http'", {"SLACK_BOT_TOKEN": "xoxb-1"}, "SLACK_SIGNING_SECRET is not set"),
    ],
)
def test_a_missing_token_is_reported_with_where_to_find_it(
    tmp_path: Path, toml: str, environment: dict[str, str], problem: str
) -> None:
    text = only_problem(tmp_path, toml, environment)
    assert text.startswith(problem)
    assert "api.slack.com/apps" in text


def test_each_mode_needs_only_its_own_tokens(tmp_path: Path) -> None:
    path = write_config(tmp_path, "[slack]\nmode = 'http'")
    bot = {"SLACK_BOT_TOKEN": "xoxb-1"}
    assert load_settings({**bot, **SECRET}, path).slack.app_token == ""
    assert load_settings({}, path, need_slack=False).slack.bot_token == ""


def test_tokens_are_in_no_repr_and_no_problem(tmp_path: Path) -> None:
    assert "canary" not in repr(read(tmp_path, **SECRET))
    mixed = {"SLACK_BOT_TOKEN": "canary-xoxb", "SLACK_APP_TOKEN": "canary-xapp"}
    mistakes = problems(tmp_path, "[slack]\nbot_token = 'xoxb-canary'\n", mixed)
    assert len(mistakes) == 3
    assert "canary" not in "".join(mistakes)


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    path = write_config(tmp_path, "[people]\nquorum = 3")
    assert load_settings({**TOKENS, "FINETUNE_CONFIG": str(path)}).policy.tiers[0].approvers == 3


def test_a_named_settings_file_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(TOKENS).policy.tiers[0].approvers == 1, "without a name the file may be missing"
    with pytest.raises(SettingsProblems, match=r"gone\.toml does not exist"):
        load_settings({**TOKENS, "FINETUNE_CONFIG": "gone.toml"})


def test_the_data_may_be_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert read(tmp_path, 'data = "~/bot"\n').data == tmp_path / "home" / "bot"


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "finetune.toml"
    path.write_bytes(b'\xef\xbb\xbfdata = "elsewhere"\n')
    assert load_settings(TOKENS, path).data == tmp_path / "elsewhere"


@pytest.mark.parametrize("content", [b"[slack\n", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "finetune.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsProblems, match=r"finetune\.toml is not TOML: "):
        load_settings(TOKENS, path)


def test_a_folder_in_place_of_the_settings_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsProblems, match="cannot be read: Is a directory"):
        load_settings(TOKENS, tmp_path)


def test_a_measurement_may_cost_five_dollars_by_default(tmp_path: Path) -> None:
    assert read(tmp_path).budget.measurement_usd == Decimal(5)
    assert read(tmp_path, '[budget]\nmeasurement_usd = "0.50"').budget.measurement_usd == Decimal("0.50")
    assert "[budget] measurement_usd should be US dollars" in only_problem(
        tmp_path, "[budget]\nmeasurement_usd = 0.5"
    )


def test_an_hourly_price_names_its_setting_as_the_source(tmp_path: Path) -> None:
    config = tmp_path / "finetune.toml"
    config.write_text('[trainer]\nusd_per_hour = "0.10"\n')
    row = load_settings({}, config, need_slack=False).provider("local")
    assert row is not None
    assert {model.source for model in row.models} == {"usd_per_hour in finetune.toml"}


@pytest.mark.parametrize(
    ("text", "usd", "is_set"),
    [
        ("", "0", False),
        ('[trainer]\nusd_per_hour = "0"\n', "0", True),
        ('[providers.local.models."smollm2-135m"]\nusd_per_hour = "0"\n', "0", True),
        ('[providers.local.models."smollm2-135m"]\nusd_per_hour = "2"\n', "2", True),
    ],
)
def test_a_free_hour_that_was_configured_differs_from_an_unknown_price(
    tmp_path: Path, text: str, usd: str, is_set: bool
) -> None:
    row = read(tmp_path, text).provider("local")
    assert row is not None
    first = row.models[0]
    assert (first.usd_per_hour, first.is_hourly_price_set) == (Decimal(usd), is_set)


@pytest.mark.parametrize("is_installed", [True, False])
def test_presidio_is_used_if_configured_and_must_be_installed_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_installed: bool
) -> None:
    monkeypatch.setattr("bot.settings.loader.find_spec", lambda name: object() if is_installed else None)
    assert not read(tmp_path).presidio
    if is_installed:
        assert read(tmp_path, "[check]\npresidio = true").presidio
    else:
        assert only_problem(tmp_path, "[check]\npresidio = true") == (
            "finetune.toml, line 2: [check] presidio is true, but presidio is not installed: "
            f"{install_line('pii')}"
        )
    assert "should be true or false" in only_problem(tmp_path, '[check]\npresidio = "yes"')


@pytest.mark.parametrize(
    "token", ["xoxb-…", "xoxb-12 34567890", "xoxb-", "xoxb-“12345678”", "xoxb-12345678\u200b"]
)
def test_a_placeholder_is_no_token(token: str) -> None:
    with pytest.raises(SettingsProblems) as raised:
        load_settings({"SLACK_BOT_TOKEN": token, "SLACK_APP_TOKEN": "xapp-1-A0-12345678"})
    (problem,) = raised.value.problems
    assert problem.startswith("SLACK_BOT_TOKEN is a placeholder or incomplete")
    assert token not in problem


def test_the_shipped_env_example_is_refused_with_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(read_resource("env.example"), encoding="utf-8")
    values = {name: value or "" for name, value in dotenv_values(tmp_path / ".env").items()}
    with pytest.raises(SettingsProblems) as raised:
        load_settings(values)
    assert [problem.split()[0] for problem in raised.value.problems] == ["SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"]


def test_the_log_redacts_every_key_at_tinker(tmp_path: Path) -> None:
    keys = {"TINKER_API_KEY": "tml-canary", "TINKER_ADMIN_KEY": "tml-canary-admin"}
    for toml in ("", '[trainer.models]\nqwen3-8b = "Qwen/Qwen3-8B"\n'):
        settings = read(tmp_path, toml, **keys)
        assert set(keys.values()) <= set(collect_secrets(settings, keys))
