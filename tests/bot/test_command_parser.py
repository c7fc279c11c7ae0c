"""What people type after /finetune: the command they mean, or a sentence that helps."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from bot import command_options, command_parser
from bot.cards import help as help_cards
from bot.command_options import Subject
from bot.command_parser import parse_form, unescape
from bot.rules.units import Misread
from bot.slack import commands
from bot.slack.commands import finetune
from bot.values.runs import Refusal

TEN_MILLION = 10_000_000
Read = tuple[str, dict[str, object]]
UNSAID = (None, (), "", "supervised")


def parse(text: str) -> Read | Refusal:
    """The command's name and what was said; `form` where it opens the one for a command that stands alone."""
    parsed = command_parser.parse(finetune, text)
    if isinstance(parsed, Refusal):
        return parsed
    name = parsed.command.name or ""
    if parsed.handler is parsed.command.alone:
        return f"{name} form", {}
    return name, {key: value for key, value in parsed.values.items() if value not in UNSAID}


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("", "help", {}),
        ("help", "help", {}),
        ("help start", "help", {"name": "start"}),
        ("upload", "upload", {}),
        ("datasets", "datasets", {}),
        ("runs", "runs", {}),
        ("models", "models", {}),
        ("promote tickets-7", "promote", {"model": "tickets-7"}),
        ("promote ft:x:org:tickets:1", "promote", {"model": "ft:x:org:tickets:1"}),
        (
            "promote tickets-7 because=half the price",
            "promote",
            {"model": "tickets-7", "because": "half the price"},
        ),
        ("rollback Tickets", "rollback", {"dataset": "tickets"}),
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
        ("estimate volume=300k tickets", "estimate", {"dataset": "tickets", "volume": 300_000}),
        ("start tickets", "start", {"dataset": "tickets"}),
        (
            "start tickets target=gpt-4.1 current=gpt-4o volume=2.5B epochs=50",
            "start",
            {
                "dataset": "tickets",
                "current": "gpt-4o",
                "volume": 2_500_000_000,
                "target": "gpt-4.1",
                "n_epochs": 50,
            },
        ),
        (
            "start tickets target=local/tiny engine=Unsloth",
            "start",
            {"dataset": "tickets", "target": "local/tiny", "engine": "unsloth"},
        ),
        (
            "start tickets target=local/tiny quantization=NF4",
            "start",
            {"dataset": "tickets", "target": "local/tiny", "quantization": "nf4"},
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
        (
            "estimate tickets quantization=int8",
            "estimate",
            {"dataset": "tickets", "quantization": "int8"},
        ),
        ("status", "status", {}),
        ("status 7", "status", {"subject": Subject(7)}),
        ("status m3", "status", {"subject": Subject(3, is_measurement=True)}),
        ("status #7", "status", {"subject": Subject(7)}),
        ("status run-7", "status", {"subject": Subject(7)}),
        ("status run 7", "status", {"subject": Subject(7)}),
        ("cancel 12", "cancel", {"subject": Subject(12)}),
        ("cancel m3", "cancel", {"subject": Subject(3, is_measurement=True)}),
        ("results M12", "results", {"subject": Subject(12, is_measurement=True)}),
        ("audit #3", "audit", {"run": 3}),
        ("baseline", "baseline form", {}),
        ("baseline tickets", "baseline", {"dataset": "tickets"}),
        (
            "baseline tickets models=openai/gpt-4o, local/tiny rungs=zero-shot,classical bar=90% task=style",
            "baseline",
            {
                "dataset": "tickets",
                "models": ("openai/gpt-4o", "local/tiny"),
                "rungs": ("classical", "zero"),
                "bar": 0.9,
                "task": "style",
            },
        ),
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
        ("curve tickets target=local/tiny", "curve", {"dataset": "tickets", "target": "local/tiny"}),
        (
            "curve tickets predict=5000, 2000 label_usd=$0.50",
            "curve",
            {"dataset": "tickets", "predict": (2_000, 5_000), "label_usd": Decimal("0.50")},
        ),
        ("knowledge Tickets", "knowledge", {"dataset": "tickets"}),
        ("budget", "budget", {}),
        ("freeze", "freeze", {}),
        ("freeze The bill  looks odd", "freeze", {"reason": "The bill  looks odd"}),
        ("unfreeze", "unfreeze", {}),
        ("rights", "rights", {}),
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
def test_every_command(text: str, name: str, values: dict[str, object]) -> None:
    assert parse(text) == (name, values)


@pytest.mark.parametrize("usage", [command.usage for command in finetune])
def test_every_line_of_the_help_can_be_typed_as_it_stands(usage: str) -> None:
    typed = usage.removeprefix("/finetune ").replace("RUN", "7").replace("[", "").replace("]", "")
    assert not isinstance(parse(typed), Refusal)


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
            {"model": "tickets-7", "because": "half the price"},
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
        ("fine", "I don't know `fine`. `/finetune help` lists all commands."),
        ("qqqq", "I don't know `qqqq`. `/finetune help` lists all commands."),
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
        ("start tickets epochs=1.5", "from 1 to 50"),
        ("start tickets epochs=²", "from 1 to 50"),
        (
            "start tickets quantization=4bit",
            "should be 'none', 'nf4' or 'int8' (quantization of the frozen base: nf4 (QLoRA",
        ),
        (
            "start tickets engine=unslot",
            "`engine=`: “unslot” should be one of builtin, unsloth, axolotl, llamafactory",
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
        ("status soon", "`soon` is not a run number."),
        ("cancel", "Which run?"),
        (
            "audit",
            "Which run? `/finetune runs` lists them. Like this: `/finetune audit RUN`, with RUN a number like 7.",
        ),
        ("results -x", "`-x` is not a run number."),
        ("cancel 9999999999", "is not a run number"),
        ("promote", "Which model? `/finetune models` lists them. Like this: `/finetune promote MODEL"),
        ("promote because=half the price", "Which model?"),
        ("promote tickets-7 now", "I took `tickets-7` for the model, and don't know what `now` means."),
        ("promote tickets-7 because= ", "`because=` is empty. Like this: `/finetune promote MODEL"),
        ("rollback", "Which dataset? `/finetune datasets` lists them."),
        ("rollback tickets 2", "I took `tickets` for the dataset, and don't know what `2` means."),
        ("promot tickets-7", "Did you mean `promote`?"),
        ("try", "Which model"),
        ("try tickets-1", "what should it answer?"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(text: str, sentence: str) -> None:
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
@pytest.mark.parametrize("injection", INJECTIONS, ids=ascii)
def test_what_a_person_typed_is_never_echoed_as_markup(place: str, injection: str) -> None:
    answer = parse(place.format(injection))
    assert isinstance(answer, Refusal)
    assert not set("<>&") & set(answer.text)
    assert all(letter.isprintable() for letter in answer.text), ascii(answer.text)
    assert answer.text.count("`") % 2 == 0


def test_what_is_echoed_is_short() -> None:
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
def test_a_dataset_s_name_can_be_typed(text: str, name: str) -> None:
    assert command_options.dataset_name(text) == name
    assert command_options.dataset_name(name) == name and command_options.is_dataset_name(name)
    typed = parse(f"start {name.upper()} target=acme/m")
    assert typed == ("start", {"dataset": name, "target": "acme/m"}), "as it is typed"


@pytest.mark.parametrize("text", ["", "  ", "---", "🎫", "<!>"])
def test_a_name_of_nothing_is_refused(text: str) -> None:
    assert isinstance(command_options.dataset_name(text), Misread)


@pytest.mark.parametrize("month", ["january", "february"])
def test_a_name_that_is_too_long_is_refused_and_not_cut(month: str) -> None:
    made = command_options.dataset_name(f"all-tickets-of-the-support-in-2026-{month}")
    assert isinstance(made, Misread) and "40 letters" in made.sentence


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
def test_only_a_text_that_is_the_name_itself_names_a_dataset_that_is_there(text: str, is_name: bool) -> None:
    assert command_options.is_dataset_name(text) == is_name


@pytest.mark.parametrize(("text", "number"), [("7", 7), (" #7 ", 7), ("RUN 7", 7)])
def test_the_number_of_a_run(text: str, number: int) -> None:
    assert command_options.read_run(text) == number


@pytest.mark.parametrize("text", ["7a", "", "m3"])
def test_what_is_no_number_of_a_run(text: str) -> None:
    assert isinstance(command_options.read_run(text), Misread)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("baseline tickets bar=0", "`bar=`: “0” should be the share"),
        ("baseline tickets bar=100%", "should be the share"),
        ("baseline tickets bar=-5", "should be the share"),
        ("baseline tickets rungs=tuned", "There is no rung “tuned”"),
        ("baseline tickets rungs=retreival", "Did you mean `retrieval`?"),
        ("baseline tickets task=clasification", "Did you mean `classification`?"),
        ("baseline tickets prompt=", "`prompt=` is empty"),
        ("baseline tickets models=", "`models=` is empty"),
        ("baseline tickets tickets2", "don't know what `tickets2` means"),
        ("baseline models=a/b", "Which dataset?"),
        ("curve", "Which dataset?"),
        ("knowledge", "Which dataset?"),
        ("curve tickets rows=3", "`curve` has no `rows=`"),
        ("basline tickets", "Did you mean `baseline`?"),
        ("cancel x3", "is not a run number"),
        ("estimate tickets hours=-1", "`hours=`"),
        ("estimate tickets rate=lots", "`rate=`"),
    ],
)
def test_what_cannot_be_measured_is_said_with_what_can(text: str, said: str) -> None:
    answer = parse(text)
    assert isinstance(answer, Refusal) and said in answer.text, answer


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
def test_what_slack_escaped_is_read_as_it_was_typed(sent: str, typed: str) -> None:
    assert unescape(sent) == typed


@pytest.mark.parametrize(
    ("bar", "share"),
    [("0.5%", 0.005), ("1%", 0.01), ("0.5", 0.5), (".9", 0.9), ("90", 0.9), ("87.5 %", 0.875)],
)
def test_a_bar_in_percent_is_percent_however_small(bar: str, share: float) -> None:
    assert command_options.read_bar(bar) == share


@pytest.mark.parametrize(
    ("typed", "volume"),
    [
        ("volume=10 million target=local/tiny", 10_000_000),
        ("volume=2.5 Billion tokens a month target=local/tiny", 2_500_000_000),
        ("volume=300 k tokens/month target=local/tiny", 300_000),
    ],
)
def test_a_volume_may_be_written_with_spaces(typed: str, volume: int) -> None:
    said = {"dataset": "tickets", "current": "gpt-4o", "volume": volume, "target": "local/tiny"}
    assert parse(f"estimate tickets current=gpt-4o {typed}") == ("estimate", said)


@pytest.mark.parametrize("command", ["datasets", "runs", "budget", "unfreeze", "models", "upload", "rights"])
def test_what_follows_a_command_that_takes_nothing_is_not_passed_over(command: str) -> None:
    answer = parse(f"{command} tickets")
    assert isinstance(answer, Refusal) and "`tickets`" in answer.text
    assert answer.text.endswith("."), "what to type instead"
    assert not isinstance(parse(command), Refusal)


@pytest.mark.parametrize("command", [command.name for command in finetune])
@pytest.mark.parametrize("word", ["help", "HELP", "--help", "-h"])
def test_help_after_a_command_is_help_about_it_and_does_nothing(command: str, word: str) -> None:
    assert parse(f"{command} {word}") == ("help", {"name": command})


def test_help_about_a_command_shows_each_option_whole() -> None:
    for command in finetune:
        blocks = str(help_cards.one_command(commands.command_help(command)).blocks)
        assert all(f"`{key}=`" in blocks for key in command.options), command.name
        assert "…" not in blocks, command.name


def test_help_about_a_command_says_how_it_is_typed_and_what_its_options_mean() -> None:
    assert help_cards.one_command(commands.command_help(commands.cancel)).text == (
        "Usage: `/finetune cancel RUN`"
    )
    text = help_cards.one_command(commands.command_help(commands.delete)).text
    assert "`before=` Only versions that were uploaded before this day." in text


def test_every_command_and_option_says_what_it_is_for() -> None:
    for command in finetune:
        assert command.help
        assert all(option.help for option in command.options.values()), command.name


@pytest.mark.parametrize("text", ["m3", "M3", "#m3", "measurement 3", "m-3"])
def test_a_measurement_is_named_in_many_ways(text: str) -> None:
    assert parse(f"cancel {text}") == ("cancel", {"subject": Subject(3, is_measurement=True)})


def test_a_form_s_field_is_read_as_the_option_of_that_name() -> None:
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
def test_what_a_form_s_field_cannot_be_stands_below_it(
    fields: dict[str, str | None], about: str | None, sentence: str
) -> None:
    refusal = parse_form(commands.estimate, fields)
    assert isinstance(refusal, Refusal) and sentence in refusal.text
    assert refusal.about == about
