"""What people type after /finetune: the command they mean, or a sentence that helps."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal

import pytest

from bot import command_options, command_parser
from bot.cards.common import help as help_cards
from bot.cards.common.blocks import Text
from bot.command_options import Subject
from bot.command_parser import parse_form, parse_question, unescape
from bot.rules.estimate_inputs import Question
from bot.rules.units import Misread, Volume
from bot.slack import commands
from bot.slack.commands import finetune
from bot.values import upload_fields
from bot.values.runs import Refusal
from bot.values.terminal_commands import TERMINAL_COMMANDS

TEN_MILLION = Volume(10_000_000, "tokens")
Parsed = tuple[str, dict[str, object]]
DEFAULTS = (None, (), "", "supervised")


def parse(text: str) -> Parsed | Refusal:
    """Returns the command's name and the values typed; 'NAME form' if the command alone opens a form."""
    parsed = command_parser.parse(finetune, text)
    if isinstance(parsed, Refusal):
        return parsed
    name = parsed.command.name or ""
    if parsed.handler is parsed.command.alone:
        return f"{name} form", {}
    return name, {key: value for key, value in parsed.values.items() if value not in DEFAULTS}


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("", "help", {}),
        ("help", "help", {}),
        ("help start", "help", {"name": "start"}),
        ("promote tickets-7", "promote", {"name": "tickets-7"}),
        ("promote ft:x:org:tickets:1", "promote", {"name": "ft:x:org:tickets:1"}),
        (
            "promote tickets-7 because=half the price",
            "promote",
            {"name": "tickets-7", "because": "half the price"},
        ),
        ("promote tickets encoder", "promote", {"name": "tickets", "kind": "encoder"}),
        (
            "promote tickets few-shot model=gpt-4o-mini shots=20",
            "promote",
            {"name": "tickets", "kind": "kshot", "model": "gpt-4o-mini", "shots": 20},
        ),
        ("rollback Tickets", "rollback", {"dataset": "tickets"}),
        (
            "fallback tickets encoder after=30s",
            "fallback",
            {"dataset": "tickets", "kind": "encoder", "after": 30},
        ),
        ("rollback tickets to=Nothing", "rollback", {"dataset": "tickets", "to": "nothing"}),
        (
            "rollback tickets because= it says nonsense",
            "rollback",
            {"dataset": "tickets", "because": "it says nonsense"},
        ),
        ("estimate", "estimate form", {}),
        ("estimate tickets", "estimate", {"dataset": "tickets"}),
        (
            "estimate tickets current=gpt-4o volume=10M target=local/smollm2-135m",
            "estimate",
            {
                "dataset": "tickets",
                "current": "gpt-4o",
                "volume": TEN_MILLION,
                "target": "local/smollm2-135m",
            },
        ),
        (
            "estimate volume=300k tickets",
            "estimate",
            {"dataset": "tickets", "volume": Volume(300_000, "tokens")},
        ),
        ("start tickets", "start", {"dataset": "tickets"}),
        (
            "start tickets target=gpt-4.1 current=gpt-4o volume=2.5B epochs=50",
            "start",
            {
                "dataset": "tickets",
                "current": "gpt-4o",
                "volume": Volume(2_500_000_000, "tokens"),
                "target": "gpt-4.1",
                "n_epochs": 50,
            },
        ),
        (
            "start tickets target=local/tiny engine=Unsloth quantization=NF4",
            "start",
            {"dataset": "tickets", "target": "local/tiny", "engine": "unsloth", "quantization": "nf4"},
        ),
        (
            "start tickets lora_r=8 lora_alpha=32 dropout=.1 learning_rate=5e-4 target_modules=q_proj,v_proj",
            "start",
            {
                "dataset": "tickets",
                "learning_rate": 5e-4,
                "lora_alpha": 32,
                "lora_dropout": 0.1,
                "lora_r": 8,
                "target_modules": "q_proj,v_proj",
            },
        ),
        (
            "start tickets beta=0.2 method=DPO",
            "start",
            {"dataset": "tickets", "method": "dpo", "beta": 0.2},
        ),
        ("status", "status", {}),
        ("status 7", "status", {"subject": Subject(7)}),
        ("status #7", "status", {"subject": Subject(7)}),
        ("status run-7", "status", {"subject": Subject(7)}),
        ("status run 7", "status", {"subject": Subject(7)}),
        ("cancel 12", "cancel", {"subject": Subject(12)}),
        ("results M12", "results", {"subject": Subject(12, is_measurement=True)}),
        ("audit #3", "audit", {"run": 3}),
        ("compare 3 5", "compare", {"subjects": (Subject(3), Subject(5))}),
        (
            "compare run 3, #5 and m7",
            "compare",
            {"subjects": (Subject(3), Subject(5), Subject(7, is_measurement=True))},
        ),
        ("baseline", "baseline form", {}),
        ("baseline tickets", "baseline", {"dataset": "tickets"}),
        (
            "baseline tickets models=openai/gpt-4o, local/tiny candidates=zero-shot,classical bar=90% task=style",
            "baseline",
            {
                "dataset": "tickets",
                "models": ("openai/gpt-4o", "local/tiny"),
                "kinds": ("classical", "zero"),
                "bar": 0.9,
                "task": "style",
            },
        ),
        ("baseline tickets rungs=zero", "baseline", {"dataset": "tickets", "kinds": ("zero",)}),
        (
            "baseline tickets bar=0.875 prompt=Sort it, model=x or not: = is fine",
            "baseline",
            {"dataset": "tickets", "bar": 0.875, "prompt": "Sort it, model=x or not: = is fine"},
        ),
        (
            "baseline tickets because=the customers agreed prompt=Sort it, because=it helps",
            "baseline",
            {"dataset": "tickets", "because": "the customers agreed", "prompt": "Sort it, because=it helps"},
        ),
        ("curve tickets", "curve", {"dataset": "tickets"}),
        (
            "curve tickets predict=5000, 2000 label_usd=$0.50",
            "curve",
            {"dataset": "tickets", "predict": (2_000, 5_000), "label_usd": Decimal("0.50")},
        ),
        ("knowledge Tickets", "knowledge", {"dataset": "tickets"}),
        ("freeze", "freeze", {}),
        ("freeze The bill  looks odd", "freeze", {"reason": "The bill  looks odd"}),
        ("prices", "prices", {}),
        (
            "prices gpt-4o, gpt-4o openai/gpt-4.1",
            "prices",
            {"names": ("gpt-4o", "openai/gpt-4.1")},
        ),
        (
            "estimate tickets hours=40 rate=$80 labels=500 batch=30%",
            "estimate",
            {
                "dataset": "tickets",
                "people_hours": Decimal(40),
                "people_rate": Decimal(80),
                "label_count": 500,
                "batch_share": Decimal("0.3"),
            },
        ),
        ("results Run 3", "results", {"subject": Subject(3)}),
        ("delete Tickets before=2026-01-31", "delete", {"dataset": "tickets", "before": date(2026, 1, 31)}),
        (
            "try tickets-1 my card was charged twice",
            "try",
            {"model": "tickets-1", "text": "my card was charged twice"},
        ),
    ],
)
def test_every_command_is_parsed(text: str, name: str, values: dict[str, object]) -> None:
    assert parse(text) == (name, values)


def test_every_usage_line_of_the_help_can_be_typed() -> None:
    for usage in (command.usage for command in finetune):
        typed = usage.removeprefix("/finetune ").replace("RUN", "7").replace("[", "").replace("]", "")
        assert not isinstance(parse(typed), Refusal), usage


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("   ", "help", {}),
        ("  HELP  ", "help", {}),
        ("Estimate   Tickets", "estimate", {"dataset": "tickets"}),
        ("estimate\ttickets", "estimate", {"dataset": "tickets"}),
        ("estimate\u00a0tickets", "estimate", {"dataset": "tickets"}),
        ("status\n7", "status", {"subject": Subject(7)}),
        (
            "estimate tickets volume = 10M  current= gpt-4o target =gpt-4.1",
            "estimate",
            {"dataset": "tickets", "current": "gpt-4o", "volume": TEN_MILLION, "target": "gpt-4.1"},
        ),
        ("try  tickets-1   two  spaces stay ", "try", {"model": "tickets-1", "text": "two  spaces stay"}),
        (
            "try tickets-1\nline one\nline two",
            "try",
            {"model": "tickets-1", "text": "line one\nline two"},
        ),
        ("estimate TICKETS Current=gpt-4o", "estimate", {"dataset": "tickets", "current": "gpt-4o"}),
        ("estimate “tickets” current='gpt-4o'", "estimate", {"dataset": "tickets", "current": "gpt-4o"}),
        ("start `tickets` —target=“gpt-4.1”", "start", {"dataset": "tickets", "target": "gpt-4.1"}),
        ("start tickets --target=gpt-4.1", "start", {"dataset": "tickets", "target": "gpt-4.1"}),
        ("start —target gpt-4.1 tickets", "start", {"dataset": "tickets", "target": "gpt-4.1"}),
        (
            "estimate tickets bar=90 % --volume 10M",
            "estimate",
            {"dataset": "tickets", "bar": 0.9, "volume": TEN_MILLION},
        ),
        (
            'promote tickets-7 because="half the price"',
            "promote",
            {"name": "tickets-7", "because": "half the price"},
        ),
        (
            "rollback tickets because=“a” is read as “b”",
            "rollback",
            {"dataset": "tickets", "because": "“a” is read as “b”"},
        ),
        ('try tickets-1 "quoted"', "try", {"model": "tickets-1", "text": '"quoted"'}),
    ],
)
def test_spacing_case_and_quotation_marks_change_nothing(
    text: str, name: str, values: dict[str, object]
) -> None:
    assert parse(text) == (name, values)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("estimte tickets", "I don't know `estimte`. Did you mean `estimate`?"),
        ("cancle 7", "I don't know `cancle`. Did you mean `cancel`?"),
        ("dataset", "Did you mean `datasets`?"),
        ("train tickets", "I don't know `train`. Did you mean `start`?"),
        ("deploy tickets-7", "Did you mean `promote`?"),
        ("fine", "I don't know `fine`. `/finetune help all` lists all commands."),
        (
            "exprt",
            "I don't know `exprt`. Did you mean `export` in a terminal? `/finetune help all` lists all commands.",
        ),
        ("estimate tickets volum=10M", "`estimate` has no `volum=`. Did you mean `volume`?"),
        ("estimate tickets epoch=2", "`estimate` has no `epoch=`. Did you mean `epochs`?"),
        ("estimate tickets volume=lots", "I can't read “lots” as a volume."),
        ("estimate tickets volume=", "`volume=` is empty"),
        ("estimate tickets current=", "`current=` is empty"),
        ("start tickets volume=1M volume=2M", "`volume=` appears twice"),
        ("estimate volume=10M", "Which dataset?"),
        ("start tickets spam", "don't know what `spam` means"),
        ("start tickets epochs=0", "`epochs=`: “0” should be a whole number from 1 to 50"),
        ("start tickets epochs=51", "from 1 to 50"),
        ("start tickets epochs=²", "from 1 to 50"),
        (
            "start tickets quantization=4bit",
            "should be 'none', 'nf4' or 'int8' (quantization of the frozen base: nf4 (QLoRA",
        ),
        ("start tickets engine=unslot", "Did you mean `unsloth`?"),
        (
            "start tickets lora_r=0",
            "`lora_r=`: “0” should be a whole number from 1 to 512 (rank of LoRA's matrices)",
        ),
        ("start tickets dropout=1", "should be a number from 0 to below 1"),
        ("start tickets learning_rate=fast", "like 5e-4."),
        (
            "start tickets target_modules=q;v",
            "should be 'all-linear' or names of modules separated by commas",
        ),
        ("start tickets beta=0.2", "`beta=`: it belongs to method=dpo, grpo."),
        ("start tickets method=ppo", "There is no method “ppo”."),
        ("start tickets patience=0", "`patience=`: “0” should be a whole number from 1 to 20"),
        ("status soon", "`soon` is neither a run, like 7, nor a measurement, like m7."),
        ("cancel", "Which run?"),
        (
            "audit",
            "Which run? `/finetune runs` lists them. Like this: `/finetune audit RUN`, with RUN a number like 7.",
        ),
        ("results -x", "`-x` is neither a run, like 7, nor a measurement, like m7."),
        ("cancel 9999999999", "is neither a run"),
        ("promote", "Which model? `/finetune models` lists them. Like this: `/finetune promote NAME"),
        ("promote because=half the price", "Which model?"),
        ("promote tickets-7 now", "There is no candidate “now”. Available: classical"),
        ("promote tickets zero,kshot", "“zero,kshot” should be one candidate, like encoder."),
        ("rollback tickets to=tickets-1", "“tickets-1” should be nothing"),
        ("promote tickets-7 because= ", "`because=` is empty. Like this: `/finetune promote NAME"),
        ("rollback", "Which dataset? `/finetune datasets` lists them."),
        ("rollback tickets 2", "I took `tickets` for the dataset, and don't know what `2` means."),
        ("try", "Which model"),
        ("try tickets-1", "what should it answer?"),
    ],
)
def test_a_mistake_is_answered_with_a_suggestion(text: str, sentence: str) -> None:
    answer = parse(text)
    assert isinstance(answer, Refusal)
    assert sentence in answer.text


INJECTIONS = [
    "<!channel>",
    "<@U1>",
    "<http://x|click>",
    "a&lt;b",
    "`code`",
    "\u202eevil",
    "\u2066x\u2069",
    "\u061cx",
    "\u200bx",
    "\x00\x07",
    "\x9bx",
    "\u2028x",
]
PLACES = [
    "{}",
    "estimate {} b",
    "estimate a {}",
    "estimate a {}=1",
    "estimate a volume={}",
    "start a epochs={}",
    "start a engine={}",
    "start a quantization={}",
    "status {}",
    "cancel {}",
]


@pytest.mark.parametrize("place", PLACES)
def test_typed_text_is_never_echoed_as_markup(place: str) -> None:
    for injection in INJECTIONS:
        answer = parse(place.format(injection))
        assert isinstance(answer, Refusal)
        assert not set("<>&") & set(answer.text)
        assert all(letter.isprintable() for letter in answer.text), ascii(answer.text)
        assert answer.text.count("`") % 2 == 0


def test_long_text_is_echoed_in_part() -> None:
    answer = parse("x" * 5_000)
    assert isinstance(answer, Refusal)
    assert len(answer.text) < 150


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("tickets", "tickets"),
        ("Support Tickets (2026)", "support-tickets-2026"),
        ("../../etc/passwd", "etc-passwd"),
        ("naïve", "naïve"),
        ("nai\u0308ve", "naïve"),
        ("客户 2024", "客户-2024"),
        ("订单 2024", "订单-2024"),
        ("हिन्दी", "हिन्दी"),
        ("x" * 40, "x" * 40),
    ],
)
def test_a_datasets_name_can_be_typed(text: str, name: str) -> None:
    assert upload_fields.dataset_name(text) == name
    assert upload_fields.dataset_name(name) == name and upload_fields.is_dataset_name(name)
    typed = parse(f"start {name.upper()} target=acme/m")
    assert typed == ("start", {"dataset": name, "target": "acme/m"}), "in any case"


@pytest.mark.parametrize("text", ["", "  ", "---", "🎫", "<!>"])
def test_a_name_without_letters_is_refused(text: str) -> None:
    assert isinstance(upload_fields.dataset_name(text), Misread)


@pytest.mark.parametrize("month", ["january", "february"])
def test_a_name_that_is_too_long_is_refused_and_not_cut(month: str) -> None:
    misread = upload_fields.dataset_name(f"all-tickets-of-the-support-in-2026-{month}")
    assert isinstance(misread, Misread) and "40 letters" in misread.sentence


@pytest.mark.parametrize(
    ("text", "is_name"),
    [
        ("Tickets", True),
        ("nai\u0308ve", True),
        ("my tickets", False),
        ("my_tickets", False),
        ("tickets!", False),
    ],
)
def test_only_the_name_itself_refers_to_an_existing_dataset(text: str, is_name: bool) -> None:
    assert upload_fields.is_dataset_name(text) == is_name


@pytest.mark.parametrize(("text", "number"), [("7", 7), (" #7 ", 7), ("RUN 7", 7)])
def test_a_run_number_is_read(text: str, number: int) -> None:
    assert command_options.read_run(text) == number


@pytest.mark.parametrize("text", ["7a", "", "m3"])
def test_other_text_is_no_run_number(text: str) -> None:
    assert isinstance(command_options.read_run(text), Misread)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("baseline tickets bar=0", "`bar=`: “0” should be the share"),
        ("baseline tickets bar=100%", "should be the share"),
        ("baseline tickets bar=-5", "should be the share"),
        ("baseline tickets candidates=tuned", "There is no candidate “tuned”"),
        ("baseline tickets candidates=retreival", "Did you mean `retrieval`?"),
        ("baseline tickets task=clasification", "Did you mean `classification`?"),
        ("baseline tickets prompt=", "`prompt=` is empty"),
        ("baseline tickets models=", "`models=` is empty"),
        ("baseline tickets tickets2", "don't know what `tickets2` means"),
        ("baseline models=a/b", "Which dataset?"),
        ("curve", "Which dataset?"),
        ("curve tickets rows=3", "`curve` has no `rows=`"),
        ("curve tickets target=local/tiny", "`curve` has no `target=`"),
        ("cancel x3", "is neither a run"),
        ("fallback tickets encoder after=700", "should be a number of seconds, from 1 to 600"),
        ("estimate tickets hours=-1", "`hours=`"),
        ("estimate tickets rate=lots", "`rate=`"),
    ],
)
def test_an_unreadable_measurement_is_refused_with_a_suggestion(text: str, sentence: str) -> None:
    answer = parse(text)
    assert isinstance(answer, Refusal) and sentence in answer.text, answer


@pytest.mark.parametrize(
    ("sent", "typed"),
    [
        ("Is 5 &gt; 3 &amp;&amp; 2 &lt; 4?", "Is 5 > 3 && 2 < 4?"),
        ("as &lt;label&gt; for AT&amp;T", "as <label> for AT&T"),
        (
            "see <http://acme.com|acme.com> and <https://acme.com/a?b=1&amp;c=2>",
            "see acme.com and https://acme.com/a?b=1&c=2",
        ),
        ("<mailto:ben@example.com|ben@example.com>", "ben@example.com"),
        (
            "ask <@U0BEN|ben> or <@U0CLEO> in <#C1|general> or <#C2|>",
            "ask @ben or @U0CLEO in #general or #C2",
        ),
        ("<!here> and <!subteam^S1|@team>", "here and @team"),
        ("the entity &amp;lt;", "the entity &lt;"),
    ],
)
def test_slacks_escapes_are_undone(sent: str, typed: str) -> None:
    assert unescape(sent) == typed


@pytest.mark.parametrize(
    ("bar", "share"),
    [
        ("0.5%", 0.005),
        ("1%", 0.01),
        ("0.5", 0.5),
        (".9", 0.9),
        ("90", 0.9),
        ("87.5 %", 0.875),
        ("92,5%", 0.925),
        ("0,925", 0.925),
    ],
)
def test_a_bar_in_percent_is_percent_however_small(bar: str, share: float) -> None:
    assert command_options.read_bar(bar) == share


@pytest.mark.parametrize(
    ("typed", "volume"),
    [
        ("volume=10 million target=local/tiny", TEN_MILLION),
        ("volume=2.5 Billion tokens a month target=local/tiny", Volume(2_500_000_000, "tokens")),
        ("volume=300 k tokens/month target=local/tiny", Volume(300_000, "tokens")),
        ("volume=20k requests target=local/tiny", Volume(20_000, "requests")),
        ("volume=20,000 Requests per month target=local/tiny", Volume(20_000, "requests")),
        ("target=local/tiny volume=20k-requests", Volume(20_000, "requests")),
        ("target=local/tiny --volume “20k requests”", Volume(20_000, "requests")),
        ('volume="20000 requests a month" target=local/tiny', Volume(20_000, "requests")),
    ],
)
def test_a_volume_may_be_written_with_spaces(typed: str, volume: Volume) -> None:
    values = {"dataset": "tickets", "current": "gpt-4o", "volume": volume, "target": "local/tiny"}
    assert parse(f"estimate tickets current=gpt-4o {typed}") == ("estimate", values)


@pytest.mark.parametrize(
    ("typed", "number"),
    [
        ("volume=20000", "20,000"),
        ("--volume 20,000", "20,000"),
        ("volume = 20000 a month", "20,000"),
        ("Volume=1000000", "1,000,000"),
    ],
)
def test_a_bare_number_as_the_volume_is_asked_back_with_both_commands(typed: str, number: str) -> None:
    refusal = parse(f"estimate tickets current=gpt-4o {typed} target=local/tiny")
    assert isinstance(refusal, Refusal)
    assert f"Is it {number} requests a month, or {number} tokens?" in refusal.text
    offered = re.findall(r"`/finetune ([^`]+)`", refusal.text)
    count = int(number.replace(",", ""))
    others = {"dataset": "tickets", "current": "gpt-4o", "target": "local/tiny"}
    assert list(map(parse, offered)) == [
        ("estimate", {**others, "volume": Volume(count, "requests")}),
        ("estimate", {**others, "volume": Volume(count, "tokens")}),
    ]


def test_a_stored_question_from_before_volumes_had_a_unit_is_in_tokens() -> None:
    question = parse_question("current=gpt-4o volume=10000000 target=local/tiny")
    assert isinstance(question, Question) and question.volume == TEN_MILLION


@pytest.mark.parametrize("command", ["runs", "budget", "unfreeze", "upload"])
def test_extra_words_after_a_command_without_arguments_are_refused(command: str) -> None:
    answer = parse(f"{command} tickets")
    assert isinstance(answer, Refusal) and "`tickets`" in answer.text
    assert answer.text.endswith("."), "a sentence"
    assert parse(command) == (command, {})


@pytest.mark.parametrize("command", ["datasets", "models"])
def test_a_list_takes_only_the_word_all(command: str) -> None:
    assert parse(f"{command} ALL") == (command, {"extent": "all"})
    assert parse(f"{command} tickets") == Refusal(
        f"`tickets` should be all, or be left out. Like this: `/finetune {command} [all]`."
    )


def test_help_after_a_command_shows_its_help_and_does_nothing() -> None:
    for command in finetune:
        for word in ("help", "HELP", "--help", "-h"):
            assert parse(f"{command.name} {word}") == ("help", {"name": command.name})


def test_the_full_help_of_a_command_explains_each_option() -> None:
    for command in finetune:
        blocks = str(help_cards.one_command(commands.command_help(command), is_full=True).blocks)
        assert all(f"`{key}=`" in blocks for key in command.options), command.name
        assert "…" not in blocks, command.name


def test_the_help_of_a_command_shows_five_options_at_most_and_counts_the_others() -> None:
    for command in finetune:
        shown = help_cards.one_command(commands.command_help(command))
        blocks = str(shown.blocks)
        n_hidden = len(command.options) - blocks.count("=` ")
        assert set(command.main_options) <= set(command.options), command.name
        assert blocks.count("=` ") == len(command.main_options) <= 5, command.name
        assert (f"{n_hidden} more option" in blocks) == (n_hidden > 0), command.name


def test_the_help_of_a_command_begins_with_what_it_does() -> None:
    card = help_cards.one_command(commands.command_help(commands.cancel))
    first = card.parts[0]
    assert isinstance(first, Text) and first.mrkdwn == "Stop a run or a measurement."
    assert card.text == "Stop a run or a measurement. Usage: `/finetune cancel RUN`"


@pytest.mark.parametrize("name", [name for name in TERMINAL_COMMANDS if finetune.named(name) is None])
def test_a_command_of_the_terminal_is_answered_with_its_line(name: str) -> None:
    answer = parse(f"{name} 2 —out <a.html>")
    assert answer == Refusal(
        f"`{name}` is a command of the terminal, not of Slack. In a terminal, in the bot's folder: "
        f"`finetune {name} 2 --out a.html`."
    )


def test_a_subcommand_of_the_terminal_is_answered_with_its_line_although_slack_has_the_word() -> None:
    assert parse("audit export --csv") == Refusal(
        "`audit export` is a command of the terminal, not of Slack. In a terminal, in the bot's folder: "
        "`finetune audit export --csv`."
    )
    assert parse("audit 3") == ("audit", {"run": 3})


@pytest.mark.parametrize("line", ["audit run=2", "audit run = 2", "audit 2"])
def test_a_run_can_be_typed_with_its_name(line: str) -> None:
    assert parse(line) == ("audit", {"run": 2})


def test_an_argument_can_be_typed_with_its_name() -> None:
    assert parse("estimate current=gpt-4o dataset=Tickets") == (
        "estimate",
        {"dataset": "tickets", "current": "gpt-4o"},
    )


def test_every_command_and_option_has_a_help_text() -> None:
    for command in finetune:
        assert command.help
        assert all(option.help for option in command.options.values()), command.name


@pytest.mark.parametrize("text", ["m3", "M3", "#m3", "measurement 3", "m-3"])
def test_a_measurements_number_can_be_written_in_several_ways(text: str) -> None:
    assert parse(f"cancel {text}") == ("cancel", {"subject": Subject(3, is_measurement=True)})


def test_a_forms_field_is_read_like_the_option_of_its_name() -> None:
    fields = {
        "dataset": "tickets",
        "volume": " 10 million tokens ",
        "bar": "85 %",
        "rate": None,
        "other": "x",
    }
    values = parse_form(commands.estimate, fields)
    assert not isinstance(values, Refusal)
    assert (values["dataset"], values["volume"], values["bar"]) == ("tickets", TEN_MILLION, 0.85)


@pytest.mark.parametrize(
    ("fields", "about", "sentence"),
    [
        ({"dataset": "tickets", "hours": "lots"}, "hours", "I can't read “lots” as hours of people's time"),
        ({"dataset": "tickets", "volume": "--bar=1"}, "volume", "as a volume"),
        ({"volume": "10M"}, None, "Which dataset?"),
    ],
)
def test_a_forms_refusal_names_the_field(
    fields: dict[str, str | None], about: str | None, sentence: str
) -> None:
    refusal = parse_form(commands.estimate, fields)
    assert isinstance(refusal, Refusal) and sentence in refusal.text
    assert refusal.about == about
