"""The client for Slack's API. It remembers whether Slack answered, and who the app is there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from slack_bolt.authorization import AuthorizeResult
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.web import SlackResponse

from bot.health import metrics
from bot.slack.users import NO_ANSWER, is_unavailable

APP_IS_LOCKED_OUT = frozenset({"account_inactive", "token_revoked", "invalid_auth", "not_authed"})
ASK_AGAIN_S = 10.0  # while Slack is silent or refuses the token
ASK_ANYWAY_S = 60.0  # an idle bot asks nothing else, and would not notice
SILENT_AFTER_S = 30.0  # one request that takes too long is no outage


@dataclass
class SlackAnswers:
    """What Slack's API answered last. `signed_in` is its answer to auth.test, None until there was one. `refusal` is
    its error code while it refuses the app's token. Times are those of `clock`."""

    clock: Callable[[], float]
    signed_in: SlackResponse | None = None
    refusal: str | None = None
    silent_since: float | None = None
    asked_at: float = float("-inf")

    @property
    def come(self) -> bool:
        """False if Slack hasn't answered for a while, or not at all since the start."""
        if self.signed_in is None:
            return False
        return self.silent_since is None or self.clock() - self.silent_since < SILENT_AFTER_S

    @property
    def should_be_asked(self) -> bool:
        is_well = self.signed_in and self.silent_since is None and self.refusal is None
        pause = ASK_ANYWAY_S if is_well else ASK_AGAIN_S
        return self.clock() - self.asked_at >= pause

    def note_answer(self) -> None:
        self.asked_at = self.clock()
        self.silent_since = None
        self.refusal = None

    def note_error(self, error: SlackApiError) -> None:
        """A refusal is an answer too, unless Slack only says that it has trouble. A rate limit says neither."""
        code = error.response.get("error")
        if error.response.status_code == 429:
            return
        if is_unavailable(error):
            self.note_silence()
            return
        self.note_answer()
        if code in APP_IS_LOCKED_OUT:
            self.refusal = str(code)

    def note_silence(self) -> None:
        self.asked_at = self.clock()
        if self.silent_since is None:
            self.silent_since = self.asked_at

    def ask(self, slack: WebClient) -> None:
        """Asks Slack who the app is, only to see that it answers. Errors are noted by the client."""
        self.asked_at = self.clock()
        with suppress(*NO_ANSWER):
            self.signed_in = slack.auth_test()

    def authorize(self, token: str) -> AuthorizeResult:
        """Returns what Bolt needs to handle a delivery. Bolt would ask Slack, and while Slack is away tell people to
        reinstall the app. Without an answer only the app's own events aren't recognised, and it can cause none then."""
        identity: Any = self.signed_in or {}
        return AuthorizeResult(
            enterprise_id=identity.get("enterprise_id"),
            team_id=identity.get("team_id"),
            bot_id=identity.get("bot_id"),
            bot_user_id=identity.get("user_id"),
            bot_token=token,
        )


class WatchedClient(WebClient):
    """A client that notes in `answers` how Slack answers each request, and counts those that Slack limits. It repeats
    none: the SDK's own retry of a connection error posts twice."""

    def __init__(self, token: str, api_url: str, timeout_s: int, answers: SlackAnswers) -> None:
        super().__init__(token=token, base_url=api_url, timeout=timeout_s, retry_handlers=[])
        self._answers = answers

    def api_call(self, api_method: str, **options: Any) -> Any:
        try:
            answer = super().api_call(api_method, **options)
        except SlackApiError as error:
            self._answers.note_error(error)
            if error.response.status_code == 429:
                metrics.RATE_LIMITED.labels(api_method).inc()
            raise
        except NO_ANSWER:
            self._answers.note_silence()
            raise
        self._answers.note_answer()
        return answer
