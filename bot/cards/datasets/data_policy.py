"""Where data may go: refusals and notes by the data rules, and for personal data the card that asks an approver for a
waiver, its form, and the recorded reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bot.cards.common.blocks import Block, Message, Text, button, code, escape
from bot.cards.common.builder import Parts
from bot.cards.common.forms import modal, required_text_input
from bot.cards.common.permissions import too_few_words
from bot.cards.common.words import capitalize
from bot.cards.datasets.findings import group_findings, part_sentence
from bot.rules.data_policy import PERSONAL_DATA, EgressDecision
from bot.rules.permissions import Data, DataRule
from storage.records import Dataset, Waiver
from trainers.dataset import Finding
from trainers.dataset.sensitive_data import Scan

WAIVE = "record_waiver"
WAIVER_FORM = "waiver_form"
MOST_REASON = 500
EXAMPLE_REASON = "the customers agreed, ticket LEGAL-12"


def egress_refusal(ruled: EgressDecision, data: Data, provider: str) -> str:
    """Why the rules keep the data from the provider, with the cure. Plain text."""
    if ruled.refused == "no rule":
        return (
            f"{data.dataset} was not sent to {provider}, because no rule under [[policy.data]] in finetune.toml covers "
            "its channel. Use a trainer on this machine, or ask the bot's operator to add a rule."
        )
    rule = ruled.against[0]
    cure = "It may not go to any provider until the bot's operator names one there."
    if rule.providers:
        cure = f"It may go to {', '.join(sorted(rule.providers))}."
    text = f"{_rule_text(rule, provider)} {cure}"
    # Only a soft rule yields to a reason, so a hard one must not suggest because=.
    if ruled.refused == "hard rule":
        return text
    return (
        f"{text} To override the rule, add a reason at the end of the command, such as `because={EXAMPLE_REASON}`. "
        "It is recorded and shown to the team."
    )


def egress_notes(ruled: EgressDecision, provider: str, reason: str | None) -> list[str]:
    """Notes for the card of a run whose data goes there anyway. Plain text."""
    notes = []
    for rule in ruled.against:
        why = "The rule is advisory."
        if rule.level == "soft":
            why = f"Overridden because: {reason}"
        notes.append(f"{_rule_text(rule, provider)} {why}")
    return notes


def egress_text(ruled: EgressDecision, data: Data, provider: str, reason: str | None) -> str:
    """The refusal, or the notes if the data may go there."""
    if ruled.refused:
        return egress_refusal(ruled, data, provider)
    return " ".join(egress_notes(ruled, provider, reason)) or "the data may go there"


def _rule_text(rule: DataRule, provider: str) -> str:
    return f"The rule “{rule.name}” ({rule.where}) doesn't let this data go to {provider}."


def reason_too_short() -> str:
    return too_few_words("this data may leave", EXAMPLE_REASON)


def refusal(dataset: Dataset, vendor: str) -> str:
    """The answer to the person whose command was stopped."""
    return (
        f"{code(dataset.name)} contains personal data, so it can go to {escape(vendor)} only after an approver records "
        f"a waiver on the card in <#{dataset.channel}>. Training on this machine needs no waiver."
    )


def scan_pending_refusal(dataset: Dataset) -> str:
    return (
        f"{code(dataset.name)} is being scanned for secrets and personal data before it first leaves this machine. Try "
        "again in a minute."
    )


def secret_refusal(dataset: Dataset, vendor: str, scans: Sequence[Scan]) -> str:
    # The training and the held-out rows are scanned apart and may hold the same kind.
    kinds = " and ".join(dict.fromkeys(kind for scan in scans for kind, _ in scan.secret))
    return (
        f"{code(dataset.name)} can't be sent to {escape(vendor)}: it contains {kinds}. Revoke that secret where it was "
        "issued, remove it from the file and upload the file again under the same name."
    )


def card_name(dataset: Dataset) -> str:
    return f"waiver {dataset.id}"


def request_card(
    dataset: Dataset, vendor: str, findings: Sequence[Finding], scans: Sequence[Scan] = ()
) -> Message:
    why = (
        f"Somebody wants to send it to {escape(vendor)}. Remove the data and upload the file again, choose a "
        "target that trains on this machine, or record why it may leave."
    )
    parts = Parts()
    parts.lines([*_found(findings), *_found_as_written(scans, findings)])
    parts.text(why)
    # By id, as a waiver covers this version only.
    parts.buttons(button("Record a waiver…", WAIVE, str(dataset.id)))
    parts.note(
        f"Needs an approver other than <@{dataset.uploaded_by}>, who uploaded it. A waiver covers this version only, "
        "is permanent, and shows the approver's name."
    )
    return parts.titled(f"{dataset.title} contains personal data", notice=why)


def waiver_recorded_card(dataset: Dataset, waiver: Waiver) -> Message:
    """The same card, with the recorded reason in place of the button."""
    headline = f"{dataset.title} may be sent to vendors"
    text = f"It contains personal data. <@{waiver.person}> recorded why it may leave: {escape(waiver.reason)}"
    return Message.titled(headline, Text(text), notice=text)


def form(dataset: Dataset) -> Block:
    hint = f"Example: {EXAMPLE_REASON}. Recorded with your name."
    reason = required_text_input("reason", "Why may this data leave?", most=MOST_REASON, hint=hint)
    text = Text(
        f"{code(dataset.title)} contains personal data. With a waiver, it may be sent to any vendor that is "
        "configured here, for training and for measuring."
    )
    return modal("Record a waiver", WAIVER_FORM, [text, reason], submit="Record", private=str(dataset.id))


def _found(findings: Sequence[Finding]) -> list[str]:
    """Personal data by kind: line numbers, never values."""
    personal = [finding for finding in findings if finding.code == PERSONAL_DATA]
    parts = [part for group in group_findings(personal) for part in group.parts]
    return [f"• {escape(capitalize(part_sentence(part)))}" for part in parts]


def _found_as_written(scans: Sequence[Scan], findings: Sequence[Finding]) -> list[str]:
    """A line for each kind that occurs in more rows than the newest file's findings say, because some held-out rows
    come from an earlier file."""
    rows = Counter[str]()
    for scan in scans:
        rows.update(dict(scan.personal))
    listed_rows = Counter[str]()
    for finding in findings:
        # A finding names its kind only within its sentence.
        listed_rows.update({kind: finding.count for kind in rows if kind in finding.message})

    lines = []
    for kind, count in rows.items():
        if count <= listed_rows[kind]:
            continue
        contain = f"{count:,} rows to be sent contain"
        if count == 1:
            contain = "1 row to be sent contains"
        lines.append(f"• {contain} {escape(kind)}")
    return lines
