"""The composition root: builds every object of the running app, then starts and stops them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import urlsplit

from slack_bolt import App, BoltRequest, BoltResponse
from slack_bolt.logger.messages import warning_client_prioritized_and_token_skipped
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from bot.context import AppContext, WaitClock
from bot.door_process import DoorProcess
from bot.embedded_trainer import EmbeddedTrainer, missing_packages, own_keys, with_trainer_address
from bot.health import metrics
from bot.health.server import Health
from bot.llm_client import LlmClient
from bot.outbox_sender import OutboxSender
from bot.process_health import Heartbeat
from bot.provider_threads import ProviderThreads
from bot.reconciler import maintain, reconcile
from bot.scheduler import RECONCILE, SEND, Scheduler
from bot.services.common import settings_history
from bot.services.common.provider_clients import open_all_billing, open_all_deployments, open_trainers
from bot.services.serving import publications
from bot.settings import Settings, SettingsProblems, SlackSettings
from bot.slack import register
from bot.slack.ack_gate import AckGate, GatedApp, ListenerThreads
from bot.slack.api import SlackAnswers, WatchedClient
from bot.slack.commands import finetune, help_list, reply_to
from bot.slack.files import SlackFiles
from bot.slack.homes import Homes
from bot.slack.inbox import ARRIVED, replay
from bot.slack.limits import LookUpLimits
from bot.slack.question_answers import PlainCommands
from bot.slack.recent_answers import RecentAnswers
from bot.slack.users import LOOK_UP_TIMEOUT_S, NO_ANSWER, SlackDirectory, is_unavailable
from bot.worker_pool import WorkerPool
from storage.store import Store

GRACE_S = 5.0
OLD_TASK_S = 3600.0  # a worker's task is ended after half of this
CONNECT_AGAIN_S = 10.0
HTTP_STEP = "door"  # its name in /healthz
# Of the look-ups a minute, left to people who act: lists can be drawn from the answers of the last minutes.
URGENT_SHARE = 0.2
LISTENER_THREADS = 32  # Bolt's default of 5 collapses under a few slow listeners

log = logging.getLogger(__name__)


class Service:
    """Everything that `finetune run` runs. Build it, `start` it, `stop` it; `app` is the Bolt app.

    Without `start` there are no ticks: a caller that only opens `connection` makes them itself, with
    `reconcile(service.context)` and `service.notices.send_due()`. `clock` gives unix seconds; `steady` is a monotonic
    clock.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] | None = None,
        workers: WorkerPool | None = None,
        threads: type[ProviderThreads] = ProviderThreads,
        limits: LookUpLimits | None = None,
    ) -> None:
        self.store = Store(settings.database)  # first: it sets the umask, so later files are private too
        settings.files.mkdir(parents=True, exist_ok=True)
        self.embedded = _open_embedded_trainer(settings)
        self.settings = settings
        if self.embedded:
            self.settings = with_trainer_address(settings, self.embedded)
        publications.publish_upstreams(self.settings)
        self.door = DoorProcess(settings)
        self.workers = workers or WorkerPool()
        slack = settings.slack
        self.answers = SlackAnswers(clock)
        posting = _slack_client(slack, self.answers)
        self._asking = _slack_client(slack, self.answers, LOOK_UP_TIMEOUT_S)
        _sign_in(posting, self.answers)
        steps: tuple[str, ...] = (RECONCILE, SEND)
        if slack.mode == "http":
            steps += (HTTP_STEP,)
        self.heartbeat = Heartbeat(settings.data, steps, settings.service.watchdog_s)
        self.threads = threads(self.store, self.heartbeat)
        if steady is None:
            # A clock that a test sets is also the steady one: what waits there is moved on by setting it.
            steady = time.monotonic if clock is time.time else clock
        limits = limits or LookUpLimits(steady)
        self.context = self._build_context(posting, clock, steady, limits)
        _watch_calls(self.context)
        self.llm = self.context.llm
        self.notices = OutboxSender(
            self.store, posting, slack.fallback_channel, blocks=slack.blocks, clock=clock
        )
        if self.answers.signed_in:
            self.notices.note_scopes(self.answers.signed_in.headers)
        gate = AckGate()
        self.watcher = Scheduler(
            self.heartbeat.watched(RECONCILE, gate.after_acks(lambda: reconcile(self.context))),
            self.heartbeat.watched(SEND, gate.after_acks(self._send)),
            lambda: maintain(self.context),
        )
        self.health = self._build_health(clock)
        self._listener_threads = ListenerThreads(LISTENER_THREADS, gate)
        self.app = _build_bolt_app(posting, slack, self._listener_threads, self.answers, gate)
        self.homes = Homes(self.context, posting)
        register(self.app, self.context, self.homes, self.watcher.wake)
        self.connection = _build_connection(self.app, slack, self.heartbeat)

    def _build_context(
        self,
        posting: WebClient,
        clock: Callable[[], float],
        steady: Callable[[], float],
        limits: LookUpLimits,
    ) -> AppContext:
        slack = self.settings.slack
        trainers = open_trainers(self.settings, own_keys(self.embedded))
        hosts = frozenset({"files.slack.com", urlsplit(slack.api_url).netloc})
        asking = self._asking
        signed_in = self.answers.signed_in
        for_reading = SlackDirectory(asking, signed_in, limits, reserve=URGENT_SHARE)
        return AppContext(
            settings=self.settings,
            store=self.store,
            trainers=trainers,
            deployments=open_all_deployments(self.settings),
            workers=self.workers,
            llm=LlmClient(self.store, trainers, self.settings.providers, clock, steady),
            threads=self.threads,
            files=SlackFiles(posting, slack.bot_token, hosts),
            directory=SlackDirectory(asking, signed_in, limits),
            recent=RecentAnswers(for_reading, steady),
            clock=clock,
            waits=WaitClock(clock, steady),
            started_at=clock(),
            answers_programs=lambda: self.door.trouble is None,
            commands=PlainCommands(finetune, help_list, reply_to),
            billing=open_all_billing(self.settings),
        )

    def _build_health(self, clock: Callable[[], float]) -> Health | None:
        if not self.settings.service.health_port:
            return None
        return Health(
            self.settings,
            self.store,
            self.heartbeat,
            lambda: self.connection.is_connected,  # asked later: the connection is built last
            clock,
            self._list_troubles,
            lambda: self.answers.come,
            lambda: self.door.state,
        )

    def _send(self) -> None:
        self.notices.send_due()
        if self.answers.should_be_asked:  # in a thread: Slack may hang
            self.threads.begin("Slack", partial(self.answers.ask, self._asking))
        person = self.homes.next_outdated()
        if person:  # in a thread, so that its look-ups don't delay messages
            self.threads.begin("App Homes", partial(self.homes.redraw, person))

    @property
    def address(self) -> str:
        """Where Slack reaches the app, for people."""
        return self.connection.address

    def _list_troubles(self) -> Mapping[str, str]:
        """Returns problems that the ticks don't show, by subject."""
        troubles = dict(self.context.troubles)
        if self.answers.refusal:
            troubles["token"] = self.answers.refusal
        if self.notices.missing_scopes:
            troubles["scopes"] = f"missing: {', '.join(sorted(self.notices.missing_scopes))}"
        if self.door.trouble:
            troubles["programs"] = self.door.trouble
        if self.workers.oldest_s > OLD_TASK_S:
            troubles["workers"] = f"the oldest task is {self.workers.oldest_s:.0f} s old"
        return troubles

    def start(self) -> None:
        settings_history.record_changes(self.store, self.settings, now=self.context.clock())
        if self.embedded:
            self.embedded.start()
        self.door.start()
        if self.health:
            self.health.start()
        self.heartbeat.start()
        replay(self.app, self.context)
        self.watcher.start()
        self.connection.open()

    def stop(self) -> None:
        """Takes no new work, waits a few seconds for what is under way, then closes everything.

        Whatever takes longer, such as a request that Slack or a vendor doesn't answer, is abandoned. It can't write
        anything once the store is closed, as if the process had been killed at that line.
        """
        self.threads.begin_no_more()  # first: long work of the ticks ends early then
        until = time.monotonic() + GRACE_S
        self.connection.close(_seconds_left(until))
        self._listener_threads.close(_seconds_left(until))
        self.watcher.stop(_seconds_left(until))
        self.heartbeat.stop()
        self.door.stop()
        if self.health:
            self.health.stop()
        self.threads.close(_seconds_left(until))
        self.llm.close()
        # Before the clients: a step that is abandoned must not note that its provider has failed.
        self.store.close()
        for trainer in self.context.trainers.values():
            trainer.close()
        for deployments in self.context.deployments.values():
            deployments.close()
        for billing in self.context.billing.values():
            billing.close()
        self.workers.close()
        if self.embedded:
            self.embedded.stop()


def _seconds_left(until: float) -> float:
    return max(until - time.monotonic(), 0.0)


def _watch_calls(context: AppContext) -> None:
    """Has the clients of providers report their calls to the metrics."""
    for name, trainer in context.trainers.items():
        trainer.observe = metrics.note_provider_call
        metrics.watch_provider(name)
    for deployments in context.deployments.values():
        deployments.observe = metrics.note_provider_call
    for billing in context.billing.values():
        billing.observe = metrics.note_provider_call


def _open_embedded_trainer(settings: Settings) -> EmbeddedTrainer | None:
    """Returns our own trainer, not started yet. None if the settings name another address for it, or if its packages
    are not installed."""
    if not any(row.is_started_by_us for row in settings.providers):
        return None
    missing = missing_packages()
    if missing:
        names = ", ".join(missing)
        log.warning("not starting our own trainer: the extra 'local' is not installed (%s missing)", names)
        return None
    trainer = settings.trainer
    data = settings.data / "trainer"
    return EmbeddedTrainer(data, trainer.models, trainer.port, trainer.slots, trainer.arguments)


def _slack_client(slack: SlackSettings, answers: SlackAnswers, timeout_s: int = 15) -> WebClient:
    return WatchedClient(slack.bot_token, slack.api_url, timeout_s, answers)


def _sign_in(slack: WebClient, answers: SlackAnswers) -> None:
    """Asks Slack who the app is. If Slack can't be reached, running jobs are followed all the same, and Slack is asked
    again later. Raises SlackApiError if Slack refuses the token."""
    try:
        answers.signed_in = slack.auth_test()
        return
    except SlackApiError as error:
        if not is_unavailable(error):
            raise
    except NO_ANSWER:
        pass
    log.error("signing in to Slack: no answer; starting without it, and trying again later")


class _TimedApp(GatedApp):
    """Measures the time to the ack, and notes when each delivery arrived."""

    def dispatch(self, req: BoltRequest) -> BoltResponse:
        req.context[ARRIVED] = time.monotonic()
        with metrics.ACK_S.labels(metrics.delivery_kind(req.body)).time():
            return super().dispatch(req)


def _build_bolt_app(
    posting: WebClient,
    slack: SlackSettings,
    listening: ListenerThreads,
    answers: SlackAnswers,
    gate: AckGate,
) -> App:
    # Without a token, with which Bolt would ask Slack itself: `authorize` brings it to each delivery.
    client = WebClient(base_url=slack.api_url, timeout=15, retry_handlers=[])
    bolts = logging.getLogger("slack_bolt")
    bolts.setLevel(logging.WARNING)  # at INFO it logs rejected bodies, at DEBUG every response
    bolts.addFilter(_is_news)
    app = _TimedApp(
        gate,
        name="finetune",  # without it Bolt searches for the caller's file, which takes 0.25 s
        logger=bolts,  # without it Bolt's loggers take the root logger's level
        client=client,
        authorize=lambda: answers.authorize(slack.bot_token),
        signing_secret=slack.signing_secret or "unused in socket mode",
        request_verification_enabled=False,  # bot/slack/http.py does it before anything is parsed
        ignoring_self_events_enabled=True,
        listener_executor=listening,
        process_before_response=False,
    )

    @app.middleware
    def watch(req: BoltRequest, next: Callable[[], BoltResponse]) -> BoltResponse:
        """Gives listeners our client, which notes Slack's answers, instead of one that Bolt makes for each delivery."""
        req.context["client"] = posting
        return next()

    return app


def _new_socket_client(slack: SlackSettings) -> WebClient:
    return WebClient(slack.bot_token, base_url=slack.api_url, timeout=15, retry_handlers=[])


def _is_news(record: logging.LogRecord) -> bool:
    """Drops Bolt's warning that our client already has a token: Bolt also finds SLACK_BOT_TOKEN in the environment."""
    return record.getMessage() != warning_client_prioritized_and_token_skipped()


class _Connection:
    """How Slack's deliveries reach the app."""

    address = ""

    @property
    def is_connected(self) -> bool:
        """True if a delivery would arrive now."""
        raise NotImplementedError

    def open(self) -> None:
        raise NotImplementedError

    def close(self, grace_s: float) -> None:
        """Takes no more deliveries, and waits `grace_s` seconds for those that are being acked."""
        raise NotImplementedError


class _SocketConnection(_Connection):
    def __init__(self, app: App, slack: SlackSettings) -> None:
        # this adapter reconnects in 2 s; Bolt's built-in one took 55 s
        from slack_bolt.adapter.socket_mode.websocket_client import SocketModeHandler

        self.address = "Slack over Socket Mode"
        self._handler = SocketModeHandler(app, slack.app_token, web_client=_new_socket_client(slack))
        self._closing = threading.Event()

    @property
    def is_connected(self) -> bool:
        return bool(self._handler.client.is_connected())

    def open(self) -> None:
        """Connects. If Slack can't be reached, keeps trying in the background; /healthz reports it meanwhile."""
        if not self._connects():
            threading.Thread(target=self._connect_later, name="socket", daemon=True).start()

    def _connect_later(self) -> None:
        """Goes on even if Slack refuses the token: nobody would see an error here, and the token may be restored."""
        is_connected = False
        while not is_connected and not self._closing.wait(CONNECT_AGAIN_S):
            try:
                is_connected = self._connects()
            except SlackApiError as error:
                log.error(
                    "connecting to Slack: it refuses SLACK_APP_TOKEN (%s); if the token was replaced, put the new one "
                    "into .env and start the bot again",
                    error.response.get("error"),
                )

    def _connects(self) -> bool:
        try:
            self._handler.connect()
        except SlackApiError as error:
            if not is_unavailable(error):
                raise
        except NO_ANSWER:
            pass
        else:
            return True
        log.error("connecting to Slack: no answer; trying again in %.0f s", CONNECT_AGAIN_S)
        return False

    def close(self, grace_s: float) -> None:
        self._closing.set()
        # In a thread: the handler itself would wait for as long as a form's answer takes.
        ending = threading.Thread(target=self._handler.close, name="end of the socket", daemon=True)
        ending.start()
        ending.join(grace_s)


class _HttpConnection(_Connection):
    def __init__(self, app: App, slack: SlackSettings, heartbeat: Heartbeat) -> None:
        from bot.slack.http import checked_wsgi, make_room, new_server

        try:
            self._server = new_server(checked_wsgi(app, slack.signing_secret), slack.host, slack.port)
        except (OSError, ValueError) as error:  # waitress raises ValueError if the host has no address
            taken = f"[slack] host = {slack.host!r}, port = {slack.port}: {error}. Choose others, or free the port."
            raise SettingsProblems((taken,)) from error
        self._make_room = make_room
        self.address = f"http://{slack.host}:{self._server.effective_port}/slack/events"
        self._closing = threading.Event()
        self._watched_poll = heartbeat.watched(HTTP_STEP, self._poll_once)
        self._thread = threading.Thread(target=self._poll, name="http", daemon=True)

    @property
    def is_connected(self) -> bool:
        return self._thread.is_alive()

    def open(self) -> None:
        self._thread.start()

    def _poll(self) -> None:
        """Does what waitress' own `run` does, which can't be stopped from outside. If this thread dies, the watchdog
        ends the process, which would hear nothing more from Slack."""
        while not self._closing.is_set():
            self._watched_poll()

    def _poll_once(self) -> None:
        self._make_room(self._server)
        settings = self._server.adj
        self._server.asyncore.loop(
            timeout=settings.asyncore_loop_timeout,
            map=self._server._map,
            use_poll=settings.asyncore_use_poll,
            count=1,
        )

    def close(self, grace_s: float) -> None:
        """Answers the requests under way, then closes the sockets. That waits until the polling thread has ended: it is
        woken through a pipe whose file descriptor, once closed, may already belong to another file."""
        until = time.monotonic() + grace_s
        self._server.task_dispatcher.shutdown(timeout=grace_s)
        self._closing.set()
        self._server.pull_trigger()
        if self.is_connected:
            self._thread.join(_seconds_left(until))
        if not self.is_connected:
            self._server.asyncore.close_all(self._server._map)


def _build_connection(app: App, slack: SlackSettings, heartbeat: Heartbeat) -> _Connection:
    if slack.mode == "socket":
        return _SocketConnection(app, slack)
    return _HttpConnection(app, slack, heartbeat)
