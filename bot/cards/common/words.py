"""Wording that all cards share: shares, times and amounts as people write them, and commands spelled for the place
where the card is read (Slack or a terminal)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from bot.rules.units import MonthlyVolume, format_requests, format_tokens
from bot.values.runs import MeasuredScore, ModelScore
from trainers.money import CENT, usd, usd_micros

Options = Mapping[str, Sequence[str]]  # an option may have several values, such as several models
NO_OPTIONS: Options = {}
CENT_MICROS = 10_000
MINUS = "−"


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def signed(number: float, form: str) -> str:
    """The number in a format such as '+.1f'. A hyphen is shorter than a plus and easily overlooked, so a negative
    number gets a minus sign."""
    return format(number, form).replace("-", MINUS)


def points(gain: float) -> str:
    """A difference between two shares, in percentage points: '+14.0 points'."""
    # `z` drops the sign of a loss that rounds to 0.0.
    return f"{signed(100 * gain, '+z.1f')} points"


def points_range(low: float, high: float) -> str:
    """The interval of a difference, in percentage points: '+5 to +23'."""
    lowest = signed(100 * low, "+z.0f")
    highest = signed(100 * high, "+z.0f")
    return f"{lowest} to {highest}"


def interval(low: float, high: float) -> str:
    """The interval of a share, in whole percent. One that rounds to a single number is widened, as '0-0%' would claim
    certainty."""
    lowest = f"{100 * low:.0f}"
    highest = f"{100 * high:.0f}"
    if lowest == highest and low < high:
        lowest = str(math.floor(100 * low))
        highest = str(math.ceil(100 * high))
    return f"{lowest}–{highest}%"


def share_with_interval(measured: ModelScore) -> str:
    share = percent(measured.share)
    return f"{share} ({interval(measured.low, measured.high)})"


def score_with_interval(measured: MeasuredScore) -> str:
    score = percent(measured.score)
    return f"{score} ({interval(measured.low, measured.high)})"


def pluralize(count: int, name: str, many: str | None = None) -> str:
    """'1 row', '2 rows'."""
    if count == 1:
        return f"{count:,} {name}"
    if many is None:
        many = f"{name}s"
    return f"{count:,} {many}"


def listed(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first `most` names, and how many more there are: 'refund, card and 3 more'."""
    shown = separator.join(names[:most])
    hidden = len(names) - most
    if hidden <= 0:
        return shown
    return f"{shown} and {hidden:,} more"


def versioned(dataset: str, version: int) -> str:
    """'tickets version 2'. Most datasets have a single version, which needs no number."""
    if version == 1:
        return dataset
    return f"{dataset} version {version}"


def first_lines(lines: Sequence[str], most: int) -> list[str]:
    """The first `most` lines, then a line that counts the rest."""
    hidden = len(lines) - most
    if hidden <= 0:
        return list(lines)
    return [*lines[:most], more_line(hidden)]


def more_line(hidden: int) -> str:
    """The line that counts what a list doesn't show."""
    return f"… and {hidden:,} more"


def shorten(name: str, limit: int = 40) -> str:
    """Shortens a name by cutting its middle, since names differ at the beginning and the end."""
    if len(name) <= limit:
        return name
    n_end = limit // 3
    n_beginning = limit - n_end - 1
    return f"{name[:n_beginning]}…{name[-n_end:]}"


def shorten_apart(names: Sequence[str], limit: int) -> list[str]:
    """Shortens different names so that they stay different: of names that would look alike without their middle, the
    part is shown where they begin to differ."""
    names_by_short: dict[str, list[str]] = {}
    for name in names:
        short = shorten(name, limit)
        names_by_short.setdefault(short, []).append(name)

    shown = []
    for name in names:
        short = shorten(name, limit)
        alike = names_by_short[short]
        if len(alike) > 1:
            short = _part_that_differs(name, alike, limit)
        shown.append(short)
    return shown


def _part_that_differs(name: str, alike: Sequence[str], limit: int) -> str:
    others = [other for other in alike if other != name]
    shared = max((_count_shared(name, other) for other in others), default=0)
    # A little of what they share, so that the part can be found in the name.
    start = max(shared - limit // 3, 0)
    end = start + limit - 2  # an ellipsis on each side
    return f"…{name[start:end]}…"


def _count_shared(name: str, other: str) -> int:
    """The number of letters with which both names begin."""
    count = 0
    for letter, other_letter in zip(name, other, strict=False):
        if letter != other_letter:
            break
        count += 1
    return count


def duration(seconds: float) -> str:
    """'40 seconds', '4 minutes', '2 hours', '1 h 20 min', '3 days'."""
    # Each unit goes on to 90, since '1 minute' for 70 seconds would be too coarse.
    if seconds < 90:
        return pluralize(max(round(seconds), 1), "second")
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} minutes"
    hours, rest = divmod(minutes, 60)
    if hours >= 48:
        return f"{round(hours / 24)} days"
    if not rest:
        return f"{hours} hours"
    return f"{hours} h {rest:02d} min"


def duration_range(low: float, high: float) -> str:
    """'13 minutes to 2 hours'. A unit that both ends share is written once: '6 to 26 minutes'."""
    early = duration(low)
    late = duration(high)
    if early == late:
        return early
    count, _, unit = early.partition(" ")
    is_shared = late.endswith(" " + unit) and unit.isalpha()
    if is_shared:
        return f"{count} to {late}"
    return f"{early} to {late}"


def planned_time(low: float | None, high: float | None, *, is_guess: bool = False) -> str:
    """How long a training takes. The bounds are in seconds, None if unknown."""
    if low is None or high is None:
        return "unknown; set `tokens_per_second` of the model in finetune.toml"
    expected = duration_range(low, high)
    if is_guess:
        return f"{expected}, guessed from the model's size; `finetune calibrate` measures it"
    return expected


def time_left(seconds: float) -> str:
    # A countdown of the last seconds would be over before Slack shows it.
    if seconds < 5:
        return "almost done"
    if seconds < 90:
        seconds -= seconds % 5  # an estimate is not right to the second
    return f"about {duration(seconds)} left"


def progress_bar(done: float) -> str:
    """A progress bar of twenty characters: '50% ██████████░░░░░░░░░░'. The number is read aloud before the bar."""
    percents = percent_done(done)
    filled = percents // 5
    bar = "█" * filled + "░" * (20 - filled)
    return f"{percents}% {bar}"


def percent_done(done: float) -> int:
    """Progress in whole percent. Never 100, since a finished job is shown as done instead."""
    percents = round(100 * max(done, 0.0))
    return min(percents, 99)


def multiple(factor: Decimal) -> str:
    """A factor of at least 1, with two or three digits: '1.04', '2.3', '19'."""
    if factor >= 10:
        return f"{factor:,.0f}"
    digits = 2 if factor < 2 else 1
    rounded = f"{factor:,.{digits}f}"
    return rounded.rstrip("0").rstrip(".")


def ratio_text(ratio: Decimal) -> str:
    """`ratio` is actual / estimated: '2.3 times the estimate', '43% of the estimate', '1/19 of the estimate'."""
    if abs(ratio - 1) < Decimal("0.01"):
        return "within 1% of the estimate"
    if ratio > 1:
        return f"{multiple(ratio)} times the estimate"
    # From a third downwards, a fraction shows the size of the error better than a percentage.
    if ratio > Decimal("0.34"):
        return f"{100 * ratio:.0f}% of the estimate"
    return f"1/{1 / ratio:,.0f} of the estimate"


def volume_text(volume: MonthlyVolume) -> str:
    """'20,000 requests a month (1.19M input tokens)', with 'about' before a number of requests that is computed."""
    tokens = format_tokens(volume.input_tokens)
    return f"{requests_text(volume)} a month ({tokens} input tokens)"


def requests_text(volume: MonthlyVolume) -> str:
    """'20,000 requests'."""
    if volume.given == "requests":
        return pluralize(volume.requests, "request")
    return _about_requests(volume.requests)


def enough_text(input_tokens: int, tokens_per_request: Fraction) -> str:
    """The volume from which on something pays, in the terms of `volume_text`."""
    requests = math.ceil(input_tokens / tokens_per_request)
    tokens = format_tokens(input_tokens)
    return f"{_about_requests(requests)} a month ({tokens} input tokens)"


def _about_requests(count: int) -> str:
    noun = "requests"
    if count == 1:
        noun = "request"
    return f"about {format_requests(count)} {noun}"


def p_value(p: float) -> str:
    """As mrkdwn, in which Slack wants every < escaped."""
    if p < 0.001:
        return "p &lt; 0.001"
    return f"p = {p:.3f}"


def money(micros: int | None) -> str:
    """An amount that may be zero, such as what is left of a budget. None is 'unknown'."""
    if micros is None:
        return "unknown"
    return usd_micros(micros)


def charge(micros: int | None) -> str:
    """A cost: 'no charge' if it is free."""
    if micros == 0:
        return "no charge"
    return money(micros)


def booked(micros: int, lost_micros: int) -> str:
    """A cost, with the part of it that may have been paid for answers that never arrived."""
    if not lost_micros:
        return charge(micros)
    return f"{charge(micros)}, including {at_most(lost_micros)} for lost answers"


def at_most(micros: int) -> str:
    """A maximum cost: 'up to $0.12', 'no charge'."""
    # Less than that is 'under 1 cent', which is a maximum already.
    if micros < CENT_MICROS:
        return charge(micros)
    return f"up to {usd_micros(micros)}"


def about_rows(count: int, what: str = "row") -> str:
    """A computed number of rows, rounded up to two digits: 'about 2,700 more rows'."""
    further_digits = max(len(str(count)) - 2, 0)
    step = int(10**further_digits)
    rounded = math.ceil(count / step) * step
    return f"about {pluralize(rounded, what)}"


def about_usd(amount: Decimal, low: Decimal | None = None, high: Decimal | None = None, per: str = "") -> str:
    """A rounded amount: 'about $195', 'about $195 a month ($140 to $260)'. `usd` writes exact amounts."""
    text = _spoken_usd(amount)
    # Neither of these two is a rounded amount.
    if text not in ("$0", "under 1 cent"):
        text = f"about {text}"
    if per:
        text = f"{text} {per}"
    if low is not None and high is not None:
        text += spoken_range(low, high)
    return text


def spoken_range(low: Decimal, high: Decimal) -> str:
    """' ($140 to $260)'; '' if both ends round to the same amount."""
    lowest = _spoken_usd(low, is_end=True)
    highest = _spoken_usd(high, is_end=True)
    if lowest == highest:
        return ""
    return f" ({lowest} to {highest})"


def _spoken_usd(amount: Decimal, *, is_end: bool = False) -> str:
    """Two significant digits, but no part of a cent: whole dollars from $10, cents below. From $100 the second digit
    may be a half ($195), except at the ends of a range."""
    if not amount or 0 < abs(amount) < CENT:
        return usd(amount).removesuffix(".00")
    # The value of the second digit: 10 for $195, 0.1 for $1.95.
    step = Decimal(1).scaleb(amount.adjusted() - 1)
    if amount.adjusted() >= 2 and not is_end:
        step /= 2
    # Cents are written. Rounded to a tenth of one first, 1.47 cents would become 1.5, and then 2.
    step = max(step, CENT)
    steps = (amount / step).to_integral_value(ROUND_HALF_UP)
    rounded = steps * step
    if abs(rounded) < 10:
        return usd(rounded)
    sign = "minus " if rounded < 0 else ""
    return f"{sign}${abs(rounded):,.0f}"


def utc_time(at: float) -> str:
    """'2026-11-25 14:03 UTC', for terminals and pages."""
    moment = datetime.fromtimestamp(at, UTC)
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def time_of_day(at: float) -> str:
    """A time that Slack shows in the reader's time zone."""
    return _slack_date(at, "{time}", "%H:%M UTC")


def day_and_time(at: float) -> str:
    """Like `time_of_day`, with the day: 'Today at 14:18:20'."""
    return _slack_date(at, "{date_short_pretty} {time_secs}", "%Y-%m-%d %H:%M:%S UTC")


def day(at: float | date) -> str:
    """A day that Slack shows in the reader's language: 'Sep 21, 2026'. Never 'today', which can't follow “on”."""
    if isinstance(at, date):
        # Noon UTC is the same day in almost every time zone.
        at = datetime.combine(at, time(12), UTC).timestamp()
    return _slack_date(at, "{date_short}", "%Y-%m-%d")


def _slack_date(at: float, form: str, form_elsewhere: str) -> str:
    """Slack replaces the tokens of `form`. Notifications, the terminal and the page show the text after the bar."""
    elsewhere = datetime.fromtimestamp(at, UTC).strftime(form_elsewhere)
    return f"<!date^{at:.0f}^{form}|{elsewhere}>"


def month_name(month: str) -> str:
    """'November 2026' for '2026-11'."""
    first_day = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    return f"{first_day:%B %Y}"


def counted(*counts: tuple[int, str]) -> str:
    """Joins the texts whose numbers are not 0: '3 models that ended and 1 without a known price'."""
    texts = [text for number, text in counts if number]
    return " and ".join(texts)


def capitalize(text: str) -> str:
    """Capitalizes the first letter only: str.capitalize would lowercase a model's name inside."""
    return text[:1].upper() + text[1:]


def usd_or_nothing(amount: Decimal) -> str:
    """'$0.12', and 'nothing' for what is free."""
    if not amount:
        return "nothing"
    return usd(amount)


def mention(person: str) -> str:
    """A person's mention, or who acts in the terminal."""
    if person == OPERATOR:
        return "The operator, in the terminal,"
    return f"<@{person}>"


def by_whom(person: str) -> str:
    """Follows “by”."""
    if person == OPERATOR:
        return "the operator, in the terminal"
    return f"<@{person}>"


def share_text(share: float) -> str:
    """85%, 85.5%."""
    percents = f"{100 * share:.1f}".removesuffix(".0")
    return f"{percents}%"


class SlackSpelling:
    """Commands as `bot/command_parser.py` reads them. `again` says what to do once a file has changed."""

    again = "upload the file again"

    def option(self, name: str, value: str = "") -> str:
        """'bar=', 'task=quality'."""
        return f"{name}={value}"

    def command(self, name: str, dataset: str, options: Options = NO_OPTIONS) -> str:
        """The command in backticks: '`/finetune baseline tickets models=openai/gpt-4o,openai/gpt-4o-mini`'."""
        words = ["/finetune", name, dataset]
        for option, values in options.items():
            if values:
                words.append(self.option(option, ",".join(values)))
        line = " ".join(words)
        return f"`{line}`"


# The commands that the terminal has as well (with a file for the dataset), and options with another name there.
WITH_A_FILE = ("baseline", "curve")
TERMINAL_NAMES = {"models": "model"}  # repeated for each value; other options take a list
OPERATOR = "terminal"  # who acts by a command in the terminal, in place of a person's id
TERMINAL_AGAIN = "run this again"


@dataclass(frozen=True)
class TerminalSpelling:
    """Commands as `finetune` takes them in a terminal. `file` stands in for the dataset."""

    file: str
    again: str = TERMINAL_AGAIN

    def option(self, name: str, value: str = "") -> str:
        """'--bar', '--task quality'."""
        flag = TERMINAL_NAMES.get(name, name).replace("_", "-")
        return f"--{flag} {value}".rstrip()

    def command(self, name: str, dataset: str, options: Options = NO_OPTIONS) -> str:
        """'finetune baseline t.csv --model openai/gpt-4o'. Commands that only Slack has end in 'in Slack'."""
        if name not in WITH_A_FILE:
            in_slack = SLACK.command(name, dataset, options).strip("`")
            return f"{in_slack} in Slack"
        words = ["finetune", name, self.file]
        for option, values in options.items():
            if option in TERMINAL_NAMES:
                words += [self.option(option, value) for value in values]
            elif values:
                words.append(self.option(option, ",".join(values)))
        return " ".join(words)


Spelling = SlackSpelling | TerminalSpelling
SLACK = SlackSpelling()
