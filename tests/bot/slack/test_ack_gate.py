"""Listeners and ticks wait until everybody's delivery is acked, but not for ever."""

from __future__ import annotations

import threading

from bot.slack.ack_gate import LISTENERS_AT_ONCE, AckGate, ListenerThreads

LONG_S = 60.0


def test_listeners_and_ticks_begin_once_every_delivery_is_acked() -> None:
    gate = AckGate(LONG_S)
    begun: list[str] = []
    tick = threading.Thread(target=gate.after_acks(lambda: begun.append("tick")))
    with ListenerThreads(1, gate) as listeners:
        with gate.unacked():
            with gate.unacked():
                tick.start()
                listening = listeners.submit(begun.append, "listener")
            assert not begun
        listening.result(LONG_S)
    tick.join(LONG_S)
    assert sorted(begun) == ["listener", "tick"]


def test_a_listener_begins_although_deliveries_keep_coming() -> None:
    gate = AckGate(most_wait_s=0.01)
    with gate.unacked(), ListenerThreads(1, gate) as listeners:
        assert listeners.submit(str, 7).result(LONG_S) == "7"


def test_listeners_that_hang_delay_neither_the_others_for_long_nor_the_end() -> None:
    listeners = ListenerThreads(LISTENERS_AT_ONCE + 1, AckGate(most_wait_s=0.01))
    hanging = threading.Event()
    try:
        for _ in range(LISTENERS_AT_ONCE):
            listeners.submit(hanging.wait)
        assert listeners.submit(str, 7).result(LONG_S) == "7"
        listeners.submit(hanging.wait)
        queued = listeners.submit(str, 8)
        listeners.close(grace_s=0.01)
        assert queued.cancelled() and not hanging.is_set()
    finally:
        hanging.set()
