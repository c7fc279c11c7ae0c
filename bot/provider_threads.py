"""Threads for work that may hang, so that it doesn't hold up the tick: one per provider, and one per file that is
fetched from Slack.

A provider or file has at most one thread at a time, so that two threads never work on the same run. Work that a thread
leaves undone is due again at a later tick.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from bot.process_health import Heartbeat
from storage.store import Store

log = logging.getLogger(__name__)


class ProviderThreads:
    def __init__(self, store: Store, heartbeat: Heartbeat) -> None:
        self._store = store
        self._heartbeat = heartbeat
        self._busy: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()

    @property
    def is_closing(self) -> bool:
        """True if no new step may begin. Long work checks it between two steps."""
        return self._closing.is_set()

    def begin(self, provider: str, work: Callable[[], None]) -> None:
        """Runs `work` in the provider's thread, unless earlier work of that thread is still going on. `provider` may be
        any name, such as that of a file to fetch."""
        with self._lock:
            if provider in self._busy or self.is_closing:
                return
            # A daemon, so that the process can end while a provider hangs.
            thread = threading.Thread(target=self._run, args=(provider, work), name=provider, daemon=True)
            thread.start()  # before it counts as busy: if this raises, the next tick tries again
            self._busy[provider] = thread

    def begin_no_more(self) -> None:
        self._closing.set()

    def close(self, grace_s: float) -> None:
        """Gives the steps under way `grace_s` seconds to end. A step that waits longer for a provider is abandoned: it
        can't write anything once the store is closed, as if the process had been killed at that line."""
        self.begin_no_more()
        until = time.monotonic() + grace_s
        for thread in list(self._busy.values()):
            thread.join(max(until - time.monotonic(), 0.0))

    def _run(self, provider: str, work: Callable[[], None]) -> None:
        try:
            self._heartbeat.watch_while_running(f"provider {provider}", work)
        except Exception:
            # No caller would see it, and the next tick begins what is due again. While the bot stops, an abandoned step
            # fails on the closed store, which is no fault.
            if not self.is_closing:
                log.exception("working at %s", provider)
        finally:
            self._store.database.close_connection()
            with self._lock:
                del self._busy[provider]
