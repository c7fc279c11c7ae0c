"""`finetune policy check` and `finetune policy explain`: check the rules in finetune.toml, and answer questions about
them."""

from __future__ import annotations

import sys
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

import click

from bot.cards.common.terminal import Tone
from bot.cli.options import EXIT_BLOCKED, JSON, load, refuse
from bot.cli.output import show_json, show_text

if TYPE_CHECKING:
    from bot.rules.permissions import Action, Caller
    from bot.settings import Settings

ACTIONS = click.Choice(
    [
        *("read", "upload", "estimate", "measure", "bar", "start", "approve", "reject", "resolve", "cancel"),
        *("pause", "freeze", "unfreeze", "waive", "promote", "rollback", "try", "delete"),
    ]
)


@click.group()
def policy() -> None:
    """Check the policy in finetune.toml: who may do what, who approves which cost, which data may go where."""


@policy.command()
@JSON
def check(as_json: bool) -> None:
    """Print the policy, or every mistake in finetune.toml.

    Exits with 2 if there is a mistake.
    """
    from bot.cli.policy_answers import policy_json, policy_table

    settings = load()
    if as_json:
        show_json(policy_json(settings.policy))
    else:
        click.echo(policy_table(settings.policy))


@policy.command()
@click.option("--user", required=True, help="The id of the person who asks, like U0123456789.")
@click.option("--action", required=True, type=ACTIONS)
@click.option("--cost", default="0", help="The run's maximum cost in US dollars, like 120.")
@click.option("--requester", default="", help="Who requested the run. Default: somebody else.")
@click.option("--uploader", default="", help="Who uploaded its data. Default: somebody else.")
@click.option("--provider", help="The provider that would get the data, like openai.")
@click.option("--channel", default="", help="The channel of the request and of the upload, like C0123456789.")
@click.option("--dataset", default="", help="The dataset's name, for rules about names.")
@click.option("--personal", is_flag=True, help="The data contains personal data.")
@click.option("--because", help="A reason, which overrides soft rules.")
@click.option(
    "--member-of",
    "groups",
    multiple=True,
    help="Assume that the user is in this group, without asking Slack. Repeatable.",
)
@click.option(
    "--offline", is_flag=True, help="Don't ask Slack: assume that the user is a full member in no group."
)
@JSON
def explain(
    user: str,
    action: Action,
    cost: str,
    requester: str,
    uploader: str,
    provider: str | None,
    channel: str,
    dataset: str,
    personal: bool,
    because: str | None,
    groups: tuple[str, ...],
    offline: bool,
    as_json: bool,
) -> None:
    """Explain which rule decides, with its line in the file.

    Exits with 1 if the answer is no.
    """
    from bot.cards.datasets.data_policy import egress_text
    from bot.cli.policy_answers import explain_policy, policy_answer_json, policy_answer_text
    from bot.rules.data_policy import decide_egress
    from bot.rules.permissions import Data, Request

    settings = load()
    request = Request(requester, uploader, 0.0, _micros(cost))
    asking, assumed = _find_caller(settings, user, action, channel, groups, offline)
    permission = None
    if provider:
        row = settings.provider(provider)
        if row is None:
            names = ", ".join(each.name for each in settings.providers)
            refuse(f"There is no provider {provider}. The providers are {names}.")
        data = Data(dataset, frozenset({channel}), personal)
        ruled = decide_egress(settings.policy, data, provider, stays_here=row.stays_here, reason=because)
        permission = (ruled, egress_text(ruled, data, provider, because))
    answer = explain_policy(asking, action, request, permission)
    if as_json:
        show_json({**policy_answer_json(answer), "asked": assumed})
    else:
        tone: Tone = "good" if answer.is_allowed else "bad"
        show_text(f"{policy_answer_text(answer)}\n\n{assumed}", tone)
    if not answer.is_allowed:
        sys.exit(EXIT_BLOCKED)


def _micros(cost: str) -> int:
    from trainers.money import is_payable, to_micros

    try:
        amount = Decimal(cost.lstrip("$"))
    except InvalidOperation:
        # Not payable, so that it is refused below.
        amount = Decimal("NaN")
    if not is_payable(amount):
        refuse("--cost should be US dollars, like 120 or 0.50.")
    return to_micros(amount)


def _find_caller(
    settings: Settings, user: str, action: Action, channel: str, groups: tuple[str, ...], offline: bool
) -> tuple[Caller, str]:
    """Returns the caller, and a sentence that says if Slack was asked about them."""
    from bot.rules.permissions import Caller, Channel, Person, Rules

    # Only the groups that the rule names, as each costs a call to Slack.
    wanted = settings.policy.named(action).groups
    if groups or offline or not settings.slack.bot_token:
        members: dict[str, frozenset[str] | None] = {}
        for name in wanted:
            members[name] = frozenset({user}) if name in groups else frozenset()
        where = None
        if channel:
            where = Channel(channel, False)
        in_groups = "in no user group"
        if groups:
            in_groups = f"in {', '.join(groups)}"
        text = f"Slack was not asked; assumed that {user} is a full member of the workspace, {in_groups}."
        return Caller(Person(user), Rules(settings.policy, members), where), text
    return _look_up_caller(settings, user, wanted, channel)


def _look_up_caller(
    settings: Settings, user: str, groups: frozenset[str], channel: str
) -> tuple[Caller, str]:
    from urllib.error import URLError

    from slack_sdk import WebClient
    from slack_sdk.errors import SlackApiError

    from bot.rules.permissions import Caller, Channel, Rules
    from bot.slack.users import SlackDirectory

    slack = settings.slack
    # Without retries, as somebody is waiting at the terminal.
    client = WebClient(slack.bot_token, base_url=slack.api_url, timeout=10, retry_handlers=[])
    try:
        signed_in = client.auth_test()
    except (SlackApiError, URLError, OSError) as error:
        refuse(f"Asking Slack at {slack.api_url} who {user} is: {error}. With --offline, Slack is not asked.")
    directory = SlackDirectory(client, signed_in)
    where = None
    if channel:
        where = Channel(channel, directory.is_shared(channel))
    members = {group: directory.members(group) for group in sorted(groups)}
    return Caller(directory.person(user), Rules(settings.policy, members), where), "Slack was asked just now."
