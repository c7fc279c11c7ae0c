"""Numbers as people say them: shares, times, dollars beside each other. No markup."""

from __future__ import annotations

from bot.results import ArmScore
from trainers.money import usd_micros


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def points(gain: float) -> str:
    """A difference of shares: '14.0 points'."""
    return f"{100 * gain:+.1f} points".replace("-", "−")


def with_interval(arm: ArmScore) -> str:
    return f"{percent(arm.share)} ({100 * arm.low:.0f}–{100 * arm.high:.0f}%)"


def duration(seconds: float) -> str:
    """'40 seconds', '4 minutes', '1 h 20 min'."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} seconds" if round(seconds) != 1 else "1 second"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} minutes"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest:02d} min" if hours < 48 else f"{round(hours / 24)} days"


def duration_range(low: float, high: float) -> str:
    short, long = duration(low), duration(high)
    return short if short == long else f"{short} to {long}"


def left(seconds: float) -> str:
    return "almost done" if seconds < 5 else f"about {duration(seconds)} left"


def bar(done: float, width: int = 20) -> str:
    """A bar of text for clients that draw no progress: '█████░░░░░ 50%'."""
    done = min(max(done, 0.0), 1.0)
    filled = round(done * width)
    return "█" * filled + "░" * (width - filled) + f" {100 * done:.0f}%"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def money(micros: int | None) -> str:
    return "unknown" if micros is None else usd_micros(micros)
