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


def test_a_listener_that_hangs_delays_the_others_only_for_a_moment() -> None:
    gate = AckGate(most_wait_s=0.01)
    hanging = threading.Event()
    with ListenerThreads(LISTENERS_AT_ONCE + 1, gate) as listeners:
        for _ in range(LISTENERS_AT_ONCE):
            listeners.submit(hanging.wait)
        try:
            assert listeners.submit(str, 7).result(LONG_S) == "7"
        finally:
            hanging.set()
