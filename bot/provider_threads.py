"""One thread a provider, and one a file that comes from Slack: what may hang runs beside the tick.

At most one at a time for a provider or a file, so that two threads never work on one run. What a thread leaves undone
is due again at a later tick.
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
        """Whether nothing new may begin; checked between two steps."""
        return self._closing.is_set()

    def begin(self, provider: str, work: Callable[[], None]) -> None:
        """Runs `work` in the thread of a provider (or of a file, by a name of its own), unless earlier work for it
        still goes on."""
        with self._lock:
            if provider in self._busy or self.is_closing:
                return
            # a daemon: the end of the process does not wait for a provider
            thread = threading.Thread(target=self._run, args=(provider, work), name=provider, daemon=True)
            thread.start()  # first: where the system gives no thread, the next tick tries again
            self._busy[provider] = thread

    def close(self, grace_s: float) -> None:
        """Gives steps under way `grace_s` to end. One that waits for a provider longer is abandoned: it can write
        nothing once the store is closed, as if the process had been killed at that line."""
        self._closing.set()
        until = time.monotonic() + grace_s
        for thread in list(self._busy.values()):
            thread.join(max(until - time.monotonic(), 0.0))

    def _run(self, provider: str, work: Callable[[], None]) -> None:
        try:
            self._heartbeat.watch_while_running(f"provider {provider}", work)
        except Exception:
            if not self.is_closing:  # left behind: what it would have written is done by the next process
                log.exception("what is due at %s", provider)
        finally:
            self._store.database.leave()
            with self._lock:
                del self._busy[provider]
