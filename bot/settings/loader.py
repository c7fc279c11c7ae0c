"""Reads the settings from the environment and finetune.toml into frozen values, and reports all problems at once."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from bot.settings.model_ends import with_announced_ends
from bot.settings.policy import build_policy
from bot.settings.tables import RentingSettings, Settings, SettingsTable, SlackSettings, TrainerSettings
from bot.settings.toml_file import TomlFile, line_numbers
from trainers.host import TINKER_ADMIN_KEY, TINKER_KEY
from trainers.packages import install_line
from trainers.providers.own_prices import read_own_prices
from trainers.providers.providers import ModelRow, ProviderProblems, ProviderRow, load_providers
from trainers.rentals import prices as rentals
from trainers.typed_tables import Fault, read_table
from trainers.types import Price

CONFIG_FILE = "finetune.toml"
# The placeholders of .env.example, and tokens that were pasted with extra characters, don't match.
BOT_TOKEN = re.compile(r"xoxb-[A-Za-z0-9-]+")
APP_TOKEN = re.compile(r"xapp-[A-Za-z0-9-]+")
SIGNING_SECRET = re.compile(r"[A-Za-z0-9-]+")

T = TypeVar("T")


class SettingsProblems(Exception):
    """The settings cannot be used. `problems` are sentences, each with its cure."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load_settings(
    environment: Mapping[str, str] | None = None, config: Path | None = None, *, need_slack: bool = True
) -> Settings:
    """Reads the file FINETUNE_CONFIG (by default finetune.toml here) and the tokens from the environment.

    Raises SettingsProblems with everything that is wrong. Missing tokens are a problem only with `need_slack`.
    """
    if environment is None:
        environment = os.environ
    path = config or Path(environment.get("FINETUNE_CONFIG", CONFIG_FILE))
    is_named = config is not None or "FINETUNE_CONFIG" in environment
    file = _read_toml(path, must_exist=is_named)
    faults: list[Fault] = []
    table = read_table(SettingsTable, file.table, faults)
    trainer = _trainer_of(table, file)
    data = path.parent / table.data
    rows = _read_rows(lambda tables: load_providers(tables, environment), table.providers, faults)
    file.problems.extend(_key_problems(rows, environment))
    providers = with_announced_ends(_with_own_models(rows, trainer, environment), data)
    settings = Settings(
        data=data,
        slack=_with_tokens(table.slack, environment, file.problems, need_slack=need_slack),
        policy=build_policy(table.people, table.policy, [row.name for row in providers], file),
        trainer=trainer,
        providers=providers,
        prices=_read_rows(read_own_prices, table.prices, faults),
        budget=table.budget,
        presidio=table.check.presidio,
        encoder=table.encoder.model,
        service=table.service,
        retention=table.retention,
        serving=table.serving,
        assistant=table.assistant,
    )
    _check_assistant(settings, file)
    if table.check.presidio and not has_presidio():
        file.note(f"is true, but {no_presidio()}", "check", "presidio")
    for fault in faults:
        file.note(fault.text, *fault.path)
    # Only now, so that a person reads all problems at once.
    if file.problems:
        raise SettingsProblems(tuple(file.problems))
    return settings


def _trainer_of(table: SettingsTable, file: TomlFile) -> TrainerSettings:
    """Returns the settings of our own trainer, which are spread over several sections."""
    trainer = replace(
        table.trainer,
        engine=table.serving.engine,
        encoder=table.encoder.model,
        renting=_check_renting(table.hf, file),
    )
    _check_gpus(trainer, file)
    _check_encoder_name(trainer, file)
    return trainer


def collect_secrets(settings: Settings, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the values of all tokens and keys that the bot holds, for the log to redact."""
    slack = settings.slack
    secrets = [slack.bot_token, slack.app_token, slack.signing_secret]
    for row in settings.providers:
        secrets.append(environment.get(row.provider.key_env or "", ""))
        secrets.append(environment.get(row.provider.billing_key_env or "", ""))
    secrets += [environment.get(name, "") for name in (TINKER_KEY, TINKER_ADMIN_KEY)]
    return tuple(filter(None, secrets))


def no_presidio() -> str:
    return f"presidio is not installed: {install_line('pii')}"


def has_presidio() -> bool:
    return find_spec("presidio_analyzer") is not None


def _with_tokens(
    slack: SlackSettings, environment: Mapping[str, str], problems: list[str], *, need_slack: bool
) -> SlackSettings:
    if need_slack:
        problems += _token_problems(environment, "SLACK_BOT_TOKEN", BOT_TOKEN)
        if slack.mode == "http":
            problems += _token_problems(environment, "SLACK_SIGNING_SECRET", SIGNING_SECRET)
        else:
            problems += _token_problems(environment, "SLACK_APP_TOKEN", APP_TOKEN)
    return replace(
        slack,
        bot_token=environment.get("SLACK_BOT_TOKEN", ""),
        app_token=environment.get("SLACK_APP_TOKEN", ""),
        signing_secret=environment.get("SLACK_SIGNING_SECRET", ""),
    )


def _token_problems(environment: Mapping[str, str], name: str, pattern: re.Pattern[str]) -> list[str]:
    """Returns what is wrong with a token, as no or one sentence. It never quotes the token."""
    value = environment.get(name, "")
    prefix = pattern.pattern.split("[")[0]  # the pattern's beginning, which is no expression
    where = "api.slack.com/apps → your app"
    if not value:
        return [f"{name} is not set: put it into .env. You find it at {where}."]
    if not value.startswith(prefix):
        return [f"{name} should start with {prefix}: this is another token. See {where}."]
    if not pattern.fullmatch(value):
        return [
            f"{name} is a placeholder or incomplete: a token has letters, digits and dashes only. See {where}."
        ]
    return []


def _key_problems(rows: Sequence[ProviderRow], environment: Mapping[str, str]) -> list[str]:
    """Returns a sentence for each key that no HTTP header can hold. It never quotes the key."""
    problems = []
    names = {row.provider.key_env for row in rows} | {row.provider.billing_key_env for row in rows}
    for name in sorted(filter(None, names)):
        if not environment.get(name, "").isascii():
            problems.append(
                f"{name} is a placeholder or was cut off: a key has ASCII characters only. Copy it again into .env, "
                "or remove it there."
            )
    return problems


def _check_gpus(trainer: TrainerSettings, file: TomlFile) -> None:
    gpus = trainer.gpus
    nodes = trainer.nodes_per_job
    if trainer.cluster is None:
        text = 'needs a cluster: also set executor = "ray", or remove it.'
        if nodes > 1:
            file.note(text, "trainer", "nodes_per_job")
        if trainer.storage:
            file.note(text, "trainer", "storage")
    if gpus % nodes:
        more = nodes * (gpus // nodes + 1)
        text = (
            f"can't be divided evenly among {nodes} nodes: it counts all GPUs of a job, which is {gpus} now. "
            f"Set it to {more}."
        )
        file.note(text, "trainer", "gpus_per_job")


def _check_assistant(settings: Settings, file: TomlFile) -> None:
    """Checks what the settings alone say of the model. Whether its price is known is checked when it is asked."""
    wanted = settings.assistant.model
    if not wanted:
        return
    row = settings.provider(settings.assistant.provider)
    if row is None:
        names = sorted(each.name for each in settings.providers)
        text = f"names the provider {settings.assistant.provider!r}, which is none of {', '.join(names)}."
        file.note(text, "assistant", "model")
        return
    model = row.model(wanted.partition("/")[2])
    if model is None and row.is_started_by_us:
        text = f"is {wanted!r}, which is not under [trainer.models]; add it there, or name another model."
        file.note(text, "assistant", "model")
    elif model is not None and model.is_encoder:
        file.note(
            f"is {wanted!r}, an encoder, which answers no questions; name another model.",
            "assistant",
            "model",
        )


def _check_encoder_name(trainer: TrainerSettings, file: TomlFile) -> None:
    # The trainer refuses to start with the same name twice. On a cluster it gets no encoder.
    name = trainer.encoder_name
    if trainer.cluster is None and name in trainer.models:
        text = "is the encoder's name. Choose another name for this base model."
        file.note(text, "trainer", "models", name)


def _with_own_models(
    rows: tuple[ProviderRow, ...], trainer: TrainerSettings, environment: Mapping[str, str]
) -> tuple[ProviderRow, ...]:
    """Gives our own trainer's row the models and the hourly price of [trainer]. If [hf] is set, adds a row that trains
    the same models on rented machines. Rows by which it trains at a vendor get those that the vendor trains too."""
    with_models = []
    hosted = []
    for row in rows:
        if row.engine is not None:
            hosted.append(row)
            continue
        if row.is_started_by_us:
            row = _own_trainer_row(row, trainer)
        with_models.append(row)
    ours = next((row for row in with_models if row.name == "local"), None)
    if trainer.renting and ours:
        with_models.append(_rented_row(ours))
    if ours and environment.get(TINKER_KEY) and ours.cluster is None:
        with_models += filter(None, (_hosted_row(row, ours, trainer) for row in hosted))
    return tuple(with_models)


def _hosted_row(row: ProviderRow, ours: ProviderRow, trainer: TrainerSettings) -> ProviderRow | None:
    """Returns the row of a vendor at which our trainer trains, with the models that both have, by our trainer's names.
    Returns None if there are none."""
    models = []
    for model in ours.models:
        names = (trainer.models.get(model.name), model.base_name, model.name)
        listed = next(filter(None, (row.model(name or "") for name in names)), None)
        if listed is None or model.is_encoder:
            continue
        models.append(
            replace(
                model,
                price=listed.price,
                base_name=listed.name,
                source=listed.source,
                as_of=listed.as_of,
                ends=listed.ends,
                context=listed.context or model.context,
            )
        )
    if not models:
        return None
    provider = replace(
        row.provider,
        base_url=ours.provider.base_url,
        chat_base_url=ours.provider.chat_base_url,
        key_env=ours.provider.key_env,
    )
    return replace(row, provider=provider, models=tuple(models), stays_here=False, is_child=ours.is_child)


def _check_renting(table: RentingSettings, file: TomlFile) -> RentingSettings | None:
    if not table.hardware and not table.image:
        return None
    for name in ("hardware", "image"):
        if not getattr(table, name):
            file.note("is missing: a rented machine needs both hardware and image.", "hf", name)
    return table


def _rented_row(ours: ProviderRow) -> ProviderRow:
    """Returns the row `hf`: the same trainer, which rents a machine for each of its jobs and serves the models here."""
    provider = replace(ours.provider, name=rentals.PROVIDER, abilities=ours.provider.abilities - {"pause"})
    return replace(
        ours,
        provider=provider,
        title=f"{rentals.WHO} Jobs",
        models=tuple(model for model in ours.models if not model.is_encoder),
        cluster="https://huggingface.co",
        stays_here=False,
        rents=True,
        tried_with=("stand-in",),
    )


def _own_trainer_row(row: ProviderRow, trainer: TrainerSettings) -> ProviderRow:
    unpriced = Price(training=None, input=None, cached_input=None, output=None)
    own = [row.model(name) or ModelRow(name=name, price=unpriced) for name in trainer.models]
    models = own or [model for model in row.models if not model.is_encoder]
    if trainer.cluster is None:  # encoders can't be trained on a cluster
        name = trainer.encoder_name
        named = ModelRow(name=name, price=unpriced, base_name=trainer.encoder, kind="encoder")
        models.append(row.model(name) or named)
    priced = tuple(_with_hourly_price(model, trainer.usd_per_hour) for model in models)
    row = replace(row, models=priced)
    if trainer.cluster is None:
        return row
    title = f"the Ray cluster at {trainer.cluster}"
    # On a cluster it was tried by other means than on this machine.
    return replace(row, title=title, cluster=trainer.cluster, stays_here=trainer.ray_is_ours, tried_with=())


def _with_hourly_price(model: ModelRow, usd_per_hour: Decimal | None) -> ModelRow:
    """Returns the model with the hourly price of [trainer]. Without one, a price that a person set for the model holds;
    otherwise an hour is free."""
    if usd_per_hour is None:
        if model.is_hourly_price_set:
            return model
        return replace(model, usd_per_hour=Decimal(0))
    source = "usd_per_hour in finetune.toml"
    return replace(model, usd_per_hour=usd_per_hour, source=source, as_of=None, is_hourly_price_set=True)


def _read_rows(
    read: Callable[[Mapping[str, Any]], tuple[T, ...]], tables: Mapping[str, Any], faults: list[Fault]
) -> tuple[T, ...]:
    """Reads the rows of providers or prices. Returns none, and adds to `faults`, if something is wrong."""
    try:
        return read(tables)
    except ProviderProblems as error:
        faults += error.faults
        return ()


def _read_toml(path: Path, *, must_exist: bool) -> TomlFile:
    """Returns an empty TomlFile with the problem if the file can't be read."""
    problems = []
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors start a file with a byte order mark
        return TomlFile(path.name, tomllib.loads(text), line_numbers(text), [])
    except FileNotFoundError:
        if must_exist:
            problems.append(f"{path} does not exist: FINETUNE_CONFIG should name your settings file.")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path} is not TOML: {error}.")
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}. FINETUNE_CONFIG should name a file.")
    return TomlFile(path.name, {}, {}, problems)
