"""Having a dataset watched: the form, the question to those who decide about its rows, and what the person reads who
asked for it."""

from __future__ import annotations

from bot.cards.common import forms
from bot.cards.common.blocks import Block, CardBlock, Message, Note, Text, button, code
from bot.cards.common.builder import Parts
from bot.cards.common.general import text_message
from bot.cards.common.words import by_whom, mention, pluralize, shorten
from bot.rules.models.promotion import alias_for
from bot.rules.permissions import WatchLimits
from storage.monitoring.watches import Watch
from storage.records import Dataset

FORM = "watch_form"
CONSENT = "watch_consent"
REFUSE = "watch_refuse"
SHARES = (0.0, 0.01, 0.05, 0.2, 1.0)
USUAL_SHARE = 0.05


def form(channel: str, dataset: str, limits: WatchLimits) -> Block:
    """Asks which share of the calls to sample. The form's metadata are the channel and the dataset."""
    options = []
    for share in SHARES:
        if share <= limits.share:
            options.append((f"{share:g}", _choice(share)))
    # The policy may allow less than the usual share.
    initial = min(USUAL_SHARE, limits.share)
    blocks: list[CardBlock | Block] = [
        Text(
            f"Every Monday a card says how {code(alias_for(shorten(dataset)))} did: calls, cost, saving, and whether a "
            "model that it asks ends. Weeks without a call have no card."
        ),
        forms.choice_input("share", "Calls to sample at random", options, initial=f"{initial:g}"),
        # Too long for a hint, which Slack limits to 150 characters.
        Note(
            "Labels of sampled calls show whether answers are still right, and their words whether calls change. "
            f"{_stored(limits)}"
        ),
        forms.choice_input(
            "every",
            "Measure what is in use again",
            [("never", "Never"), ("month", "Every month")],
            initial="never",
        ),
        Note(_measured_monthly(limits)),
    ]
    return forms.modal("Watch a dataset", FORM, blocks, submit="Watch it", private=f"{channel} {dataset}")


def begun_text(watch: Watch, limits: WatchLimits, *, is_tuned: bool) -> str:
    """For the person who asked for it. `is_tuned`: what is in use was trained here."""
    text = (
        f"{code(watch.dataset)} is watched: a card in <#{watch.channel}> every Monday at nine ({watch.time_zone}), "
        "unless nothing was called."
    )
    if watch.awaits_consent:
        text += f" {_percent(watch.share)} of the calls are sampled once somebody who decides about its rows agrees."
    elif watch.share:
        text += f" {_percent(watch.share)} of the calls are sampled from now on. {_stored(limits)}"
    else:
        sample = code(f"/finetune watch {watch.dataset} sample=5%")
        text += f" No call is sampled, so nothing is known of the answers: {sample} changes that."
    if watch.every == "month" and is_tuned:
        text += " What is in use was trained and stays as it is, so it isn't measured again every month."
    elif watch.every == "month":
        never = code(f"/finetune watch {watch.dataset} every=never")
        text += f" {_measured_monthly(limits)} {never} ends only that."
    return f"{text} {_how_to_end(watch.dataset)}"


def ended_text(watch: Watch) -> str:
    text = f"{code(watch.dataset)} is no longer watched."
    if watch.consented_at is not None:
        text += " The calls that were sampled are deleted within minutes."
    return text


def consent_card(watch: Watch, dataset: Dataset, limits: WatchLimits) -> Message:
    """Asks those who decide about the dataset's rows. Posted in its channel."""
    parts = Parts()
    parts.text(
        f"{mention(watch.person)} wants {_percent(watch.share)} of the calls to {code(alias_for(watch.dataset))} to be "
        f"sampled at random. {_stored(limits)}"
    )
    parts.text(
        f"{mention(dataset.uploaded_by)}, who uploaded its rows, or somebody else who may delete them decides. Without "
        "an answer no call is stored."
    )
    number = str(watch.id)
    agree = button("Sample them", CONSENT, number)
    parts.buttons(agree, button("Don't sample", REFUSE, number))
    return parts.titled(f"May calls to {alias_for(watch.dataset)} be sampled?")


def decided_card(watch: Watch, person: str, *, agrees: bool) -> Message:
    """Replaces the question."""
    alias = code(alias_for(watch.dataset))
    if agrees:
        return text_message(
            f"{by_whom(person)} agreed that {_percent(watch.share)} of the calls to {alias} are sampled. "
            f"{_how_to_end(watch.dataset)}"
        )
    return text_message(f"{by_whom(person)} decided that no calls to {alias} are sampled.")


def outdated_card(watch: Watch) -> Message:
    """Replaces a question that needs no answer any more."""
    return text_message(
        f"Whether calls to {code(alias_for(watch.dataset))} are sampled was decided otherwise."
    )


def not_in_use(dataset: str) -> str:
    deploy = code(f"/finetune promote {dataset} CANDIDATE")
    return (
        f"Nothing is in use for {code(dataset)}, so there are no calls to watch. {deploy} deploys something."
    )


def not_allowed_here(dataset: str, limits: WatchLimits) -> str:
    return f"{code(dataset)} may not be watched: {limits.where} in finetune.toml doesn't name its channel."


def share_too_large(limits: WatchLimits) -> str:
    most = "no call may be sampled"
    if limits.share:
        most = f"at most {_percent(limits.share)} of the calls may be sampled"
    return f"By {limits.where} in finetune.toml {most}."


def _choice(share: float) -> str:
    if not share:
        return "No calls: numbers only"
    if share == 1:
        return "All of them"
    return f"{_percent(share)} of them"


def _stored(limits: WatchLimits) -> str:
    """What is stored of a sampled call, and for how long."""
    personal = "Calls with personal data are left out"
    if limits.personal == "mask":
        personal = "Personal data is masked"
    days = pluralize(limits.days, "day")
    return (
        f"{personal} and calls with a secret are left out before anything is stored. Texts are deleted after {days}. "
        f"They stay on this machine, except those without personal data that {code('/finetune test')} puts to "
        "something that may get the dataset's rows."
    )


def _measured_monthly(limits: WatchLimits) -> str:
    text = (
        "With the first card of a month, what is in use is asked about the held-out rows again, as a vendor may change "
        "a model under its name."
    )
    if limits.usd_per_month:
        return f"{text} Without asking, at most ${limits.usd_per_month:g} is spent a month."
    return f"{text} If that costs money, the card asks first."


def _how_to_end(dataset: str) -> str:
    return f"{code(f'/finetune watch {dataset} to=nothing')} ends that."


def _percent(share: float) -> str:
    return f"{100 * share:g}%"
