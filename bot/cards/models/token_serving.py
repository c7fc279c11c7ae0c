"""A tuned model that a vendor serves by the token: the button on its result, and the terms that a team accepts with
it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bot.cards.common.blocks import Block, button, confirm, escape
from bot.cards.common.plan_money import leaves_line, token_line
from bot.rules.models.deployments import Hosting, TokenTerms
from storage.deployments import DeploymentState

SERVE = "serve_by_token"
STATES_BY_TOKEN: Mapping[DeploymentState, str] = {
    "starting": "is being uploaded",
    "ready": "is served by the token",
    "stopping": "is being taken back",
    "stopped": "is no longer served by the token",
}
LOADED = "is being loaded"  # instead of "is being uploaded", where the vendor has the weights
UPLOAD_AGAIN = "Upload again"
SERVE_AGAIN = "Serve it again"


@dataclass(frozen=True)
class TokenOffer:
    """A vendor, by its name in the settings and its title, that could serve a model at these `terms`; without terms,
    `why_not` says why it can't, and what would."""

    provider: str
    title: str
    terms: TokenTerms | None = None
    why_not: str = ""


def accepted_terms(hosting: Hosting) -> str:
    """The detail of the audit log's entry about the terms that a person accepted by serving a model."""
    terms = hosting.by_token
    if terms is None:
        return ""
    return f"{terms.provider}: {terms.data_terms or 'no address is configured'}"


def waits_text(terms: TokenTerms, title: str) -> str:
    """A run's note until its model answers at the vendor of this title."""
    what = f"Its adapter is being uploaded to {escape(title)}"
    if not terms.is_uploaded:
        what = f"Its model {LOADED} at {escape(title)}"
    return f"{what}. Measuring begins once it answers there."


def serve_buttons(run_id: int, offer: TokenOffer | None) -> Sequence[Block]:
    if offer is None or offer.terms is None:
        return []
    sure = confirm(
        "Serve it by the token?",
        f"It is {token_line(offer.terms)}. {leaves_line(offer.terms)}",
        "Upload it" if offer.terms.is_uploaded else "Serve it",
        "Not now",
    )
    return [button("Serve it by the token", SERVE, f"{run_id} {offer.provider}", confirm=sure)]


def why_not_line(offer: TokenOffer | None) -> str:
    """Why a model can't be served by the token; '' if it can, or nobody could."""
    if offer is None or not offer.why_not:
        return ""
    return f"Not by the token: {offer.why_not}"


def again_button(*, is_uploaded: bool) -> str:
    """The button that serves a model again. `is_uploaded` is false if the vendor has the weights."""
    if is_uploaded:
        return UPLOAD_AGAIN
    return SERVE_AGAIN


def not_served_refusal(model: str, title: str, card: str, *, is_uploaded: bool) -> str:
    """`card` is the link to the deployment's card."""
    again = again_button(is_uploaded=is_uploaded)
    return f"`{model}` is not served at {escape(title)} now. Press *{again}* on {card}."


def not_loaded_refusal(model: str, title: str, card: str) -> str:
    """As above, where the vendor could run the weights on a machine too."""
    served = not_served_refusal(model, title, card, is_uploaded=False).removesuffix(".")
    return f"{served}, or *Start again* on that of its machine."
