"""`finetune baseline` and `finetune curve`: a provider answers over HTTP, its answers are stored, and JSON has every
number."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
from matplotlib.figure import Figure

from bot.cli import datasets, output
from storage.store import Store
from tests.bot.cli_runner import finetune, finetune_json, write_tickets
from tests.peers.hosted import CHAT_SETTINGS, KEY, NOTHING_BUT_500, Fault, Hosted
from tests.peers.service import Service
from trainers.dataset import Columns, read

LABELS = ("billing", "delivery", "refund", "login")
Messages = list[dict[str, Any]]
SETTINGS = f"""
[budget]
measurement_usd = "{{limit}}"
{CHAT_SETTINGS}"""
REFUSED = Fault(commit=False, status=400, code="content_filter")
ZERO = ("--model", "acme/large", "--candidates", "zero")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked_once: None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("FINETUNE_CONFIG", "SLACK_BOT_TOKEN", "SLACK_APP_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACME_KEY", KEY)
    monkeypatch.setattr(
        Figure, "savefig", lambda _, path, **__: Path(path).touch()
    )  # the terminal shows no picture


def baseline(*arguments: str | Path) -> dict[str, Any]:
    return finetune_json("baseline", *arguments)


def baseline_text(*arguments: str | Path) -> str:
    return finetune("baseline", *arguments).stdout


def scores(answer: dict[str, Any]) -> dict[str, float]:
    return {candidate["name"]: candidate["score"] for candidate in answer["rungs"]}


def name_label(_model: str, messages: Messages) -> str:
    """Answers right: the label is the second word of each question of `write_rows`."""
    answer: str = messages[-1]["content"].split()[1]
    return answer


@contextmanager
def provider(
    answer: Callable[[str, Messages], str] = name_label,
    *,
    models: tuple[str, ...] = ("large",),
    key: str = KEY,
    limit: str = "5",
) -> Iterator[Hosted]:
    """A provider that finetune.toml names."""
    with Hosted(Service(models=models, answer=answer), key=key) as company:
        Path("finetune.toml").write_text(SETTINGS.format(url=company.url, limit=limit))
        yield company


def write_rows(
    name: str, count: int = 60, labels: tuple[str, ...] = LABELS, *, first: int = 0, more: str = ""
) -> Path:
    """Writes different questions that name their label, so that their words alone tell them apart."""
    path = Path.cwd() / name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(first, first + count):
            label = labels[number % len(labels)]
            writer.writerow(
                [f"my {label} trouble number {number} is back again, see {digest(number)}", label]
            )
        file.write(more)
    return path


def digest(number: int) -> str:
    """A word that keeps two rows from being near copies of each other."""
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()


def write_questions(name: str, count: int = 60) -> Path:
    """Writes questions with answers of free text."""
    chance = random.Random(7)
    words = ["".join(chance.choices(ascii_lowercase, k=6)) for _ in range(400)]
    path = Path.cwd() / name
    with path.open("w") as file:
        for number in range(count):
            question = {"role": "user", "content": " ".join(chance.sample(words, 9))}
            answer = {"role": "assistant", "content": f"It is number {number}."}
            file.write(json.dumps({"messages": [question, answer]}) + "\n")
    return path


def test_the_free_candidate_needs_no_model_and_the_estimate_reads_its_json(tmp_path: Path) -> None:
    file = write_tickets(tmp_path / "tickets.csv", 210)
    answer = baseline(file, "--candidates", "classical", "--bar", "30%")
    (candidate,) = answer["rungs"]
    assert (candidate["name"], candidate["model"], candidate["usd_per_1000"]) == ("classical", None, 0)
    assert candidate["low"] < candidate["score"] < candidate["high"]
    assert (answer["rows_trained_on"], candidate["n"], answer["n"]) == (143, 67, 67)
    assert answer["verdict"]["next_step"]

    (tmp_path / "baseline.json").write_text(json.dumps(answer))
    question = ("--baseline", "baseline.json", "--current", "gpt-4o", "--volume", "1B")
    verdict = finetune_json("estimate", file, *question)["verdict"]
    assert verdict["kind"] == "no_go" and "classical model meets the bar" in verdict["headline"]


def test_progress_names_no_questions_if_no_model_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "A_LINE_EVERY_S", 0)
    measured = finetune("baseline", write_tickets(tmp_path / "tickets.csv", 60), "--candidates", "classical")
    assert measured.exit_code == 0
    assert "rows read" in measured.stderr and "questions answered" not in measured.stderr


def test_for_columns_that_the_file_lacks_the_options_are_named_and_not_the_file(tmp_path: Path) -> None:
    file = write_tickets(tmp_path / "tickets.csv", 60)
    for command in ("baseline", "estimate"):
        refused = finetune(command, file, "--text", "message", "--label", "queue")
        assert refused.exit_code == 2
        assert refused.stderr.rstrip().endswith("Name the columns with --text and --label.")


def test_the_text_begins_with_the_verdict_on_the_policys_bar() -> None:
    Path("finetune.toml").write_text("[policy.promotion]\nbar_percent = 40\n", encoding="utf-8")
    text = baseline_text(write_rows("rows.csv"), "--candidates", "classical")
    assert text.splitlines()[0].startswith("The classical model meets the usual bar of 40%")
    assert "An answer counts as a label if" in text
    assert "`" not in text


@pytest.mark.parametrize("command", [("baseline", "rows.csv"), ("calibrate",)], ids=lambda words: words[0])
def test_a_home_that_cannot_be_written_to_is_named_with_the_cure(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = write_rows("rows.csv")  # a file, in which nobody can create a folder
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    refused = finetune(*command)
    assert refused.exit_code == 2
    assert f"{state}/finetune" in refused.stderr and "XDG_STATE_HOME" in refused.stderr


def test_a_second_baseline_in_the_same_folder_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "finetune"
    folder.mkdir(parents=True)
    store = Store(folder / "terminal.db")
    result = finetune("baseline", write_rows("rows.csv"), "--candidates", "classical")
    store.close()
    assert result.exit_code == 2
    assert "Another finetune baseline is using" in result.stderr


@pytest.mark.deep
def test_each_question_is_asked_once_despite_a_hiccup_and_a_repeat_is_free() -> None:
    arguments = (write_rows("rows.csv"), "--model", "acme/large", "--candidates", "zero,kshot")
    with provider() as company:
        company.fail("POST /chat/completions", NOTHING_BUT_500)
        result = finetune("baseline", *arguments, "--json")
        requests = len(company.requests)
        text = baseline_text(*arguments)
        assert len(company.requests) == requests
    assert result.stderr.startswith("This costs at most $0.0"), "also if nobody is there to confirm it"
    first = json.loads(result.stdout)
    assert scores(first) == {"zero": 1.0, "kshot": 1.0} and first["failed"] == []
    assert first["rungs"][0]["usd_per_1000"] > 0
    assert requests == 2 * first["n"] + 1
    assert "100%" in text and " empty." not in text


@pytest.mark.deep
def test_a_search_finds_a_better_prompt_on_training_rows_and_a_repeat_is_free() -> None:
    def answer(model: str, messages: Messages) -> str:
        text = messages[-1]["content"]
        if len(messages) == 1:
            return f"Better:\n```\n{text.split('```')[1].strip()} Take the second word.\n```"
        return name_label(model, messages) if "second word" in messages[0]["content"] else "billing"

    arguments = (write_rows("rows.csv", 120), *ZERO, "--prompt", "Sort it.", "--optimise", "2")
    with provider(answer) as company:
        first = baseline(*arguments)
        requests = len(company.requests)
        again = baseline(*arguments)
        assert len(company.requests) == requests
    assert scores(first)["zero"] < 0.5 and scores(first)["optimised"] == 1.0
    search = first["search"]
    assert (search["before"], search["prompt"]) == ("Sort it.", "Sort it. Take the second word.")
    assert search["share_before"] < search["share"] == 1.0
    assert 0 < search["usd"] < 2 and again["search"]["usd"] == 0
    assert first["cheapest"] == "optimised acme/large"


def test_a_provider_without_a_key_is_asked_without_one() -> None:
    """As Ollama and vLLM at a loopback address."""
    with provider(key="none"):
        toml = Path("finetune.toml")
        toml.write_text(toml.read_text().replace('key_env = "ACME_KEY"\n', ""))
        assert scores(baseline(write_rows("rows.csv"), *ZERO)) == {"zero": 1.0}


def test_overlaps_of_a_given_holdout_are_left_out_or_counted() -> None:
    """Equal rows aren't learnt from; rows that nearly ask the same, and labels that the file lacks, are counted."""
    near = "please tell me at once where the parcel is that I ordered with you last week"
    file = write_rows("train.csv", 120, more=f"{near},refund\n")
    foreign = "".join(f"is shop {digest(number)} open on Sundays,opening hours\n" for number in range(20))
    holdout = write_rows("test.csv", 60, first=100, more=f"{near} now,refund\n{foreign}")
    arguments = (file, "--holdout", holdout, "--candidates", "classical")
    answer, text = baseline(*arguments), baseline_text(*arguments)
    assert (answer["n"], answer["rows_left_out"], answer["rows_trained_on"]) == (81, 20, 101)
    assert answer["rows_nearly_held_out"] == 1
    assert "1 row asked nearly the same as the holdout, and was learnt from" in text
    assert answer["rows_with_foreign_labels"] == 20
    assert "20 held-out rows have a label that the file does not have" in text


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("same.csv", None, "no row is left to learn from"),
        ("empty.csv", "text,label\n", "there are no rows in it"),
        ("other.csv", "frage,klasse\nx,refund\n", "no column 'text'"),
        ("free.csv", "text,label\nwhere is it,It is on its way to you\n", "none of its answers is a label"),
        ("key.csv", "text,label\nAKIAQ3EGZLNK4RT7XW2B is my key,refund\n", "secret"),
    ],
)
def test_a_holdout_that_measures_nothing_is_refused(name: str, content: str | None, reason: str) -> None:
    file, holdout = write_rows("rows.csv"), Path(name)
    holdout.write_text(file.read_text() if content is None else content)
    result = finetune("baseline", file, "--holdout", holdout, "--candidates", "classical")
    assert result.exit_code == 2 and name in result.stderr and reason in result.stderr.lower() + result.stderr


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(REFUSED, id="declines"),
        pytest.param(
            Fault(commit=False, status=200, body=b'{"choices": ['),
            id="speaks no JSON",
            marks=pytest.mark.slow,
        ),  # asked again and again for 20 s
    ],
)
def test_a_model_that_answers_nothing_is_left_out_rather_than_called_bad(fault: Fault) -> None:
    arguments = (write_rows("rows.csv"), "--model", "acme/large", "--candidates", "classical,zero")
    with provider() as company:
        company.fail("POST /chat/completions", fault, times=999)
        answer, text = baseline(*arguments), baseline_text(*arguments)
    assert [candidate["name"] for candidate in answer["rungs"]] == ["classical"]
    assert [candidate["name"] for candidate in answer["failed"]] == ["zero"] and "acme" in answer["failed"][
        0
    ]["why"]
    assert "Left out: prompt alone, acme/large" in text


def test_declined_rows_are_counted_with_the_reason_and_have_no_price() -> None:
    file = write_rows("rows.csv")
    with provider() as company:
        complete = baseline(file, *ZERO, "--prompt", "Sort it.")
        company.fail("POST /chat/completions", REFUSED, times=4)
        answer = baseline(file, *ZERO, "--prompt", "Sort this.")
    (candidate,), (declined,) = answer["rungs"], answer["declined"]
    assert (declined["questions"], candidate["empty"]) == (4, 4) and "HTTP 400" in declined["why"]
    assert candidate["usd_per_1000"] == pytest.approx(complete["rungs"][0]["usd_per_1000"], rel=0.02)


def test_empty_answers_are_counted_as_wrong() -> None:
    with provider(lambda _model, _messages: ""):
        text = baseline_text(write_rows("rows.csv"), *ZERO)
    assert "20 of 20 answers (prompt alone, acme/large) were empty and count as wrong." in text


def test_a_provider_that_keeps_failing_is_given_up_and_its_answers_stay() -> None:
    with provider() as company:
        company.fail("POST /chat/completions", NOTHING_BUT_500, times=1000)
        result = finetune("baseline", write_rows("rows.csv"), *ZERO, "--patience", "0.01")
    assert result.exit_code == 2
    assert "No answer came for 0.01 minutes." in result.stderr and "busy or failing" in result.stderr
    assert "run the same command to go on from there" in result.stderr


def test_personal_data_goes_to_a_vendor_only_for_a_reason_that_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainers.providers.providers.is_loopback", lambda _: False)
    file = write_rows("people.csv")
    file.write_text(file.read_text().replace("number 3 is", "of ana.kovac@example.com is"))
    with provider() as company:
        refused = finetune("baseline", file, *ZERO)
        assert refused.exit_code == 2 and "--waive" in refused.stderr and "personal data" in refused.stderr
        assert "at least 3 words" in finetune("baseline", file, *ZERO, "--waive", "ok").stderr
        assert baseline(file, "--candidates", "classical")["failed"] == [], (
            "which leaves this machine to nobody"
        )
        clean = write_rows("rows.csv")
        typed = finetune("baseline", clean, *ZERO, "--prompt", "Sort it as ana.kovac@example.com would.")
        assert typed.exit_code == 2 and "or the prompt has personal data" in typed.stderr
        secret = ("--prompt", "The key is AKIAQUUXNIGHTJARABCD.", "--waive", "the customers agreed to it")
        assert "Remove the secret" in finetune("baseline", clean, *ZERO, *secret).stderr
        assert company.requests == []
        baseline(file, *ZERO, "--waive", "the customers agreed to it")
    store = Store(Path("data") / "terminal.db")
    (entry,) = store.audit.entries("file people.csv")
    store.close()
    assert (entry.action, entry.detail) == ("waive", "to Acme: the customers agreed to it")


def test_a_measurement_above_its_limit_is_refused_before_anything_is_asked() -> None:
    with provider(limit="0.0001") as company:
        result = finetune("baseline", write_rows("rows.csv"), *ZERO)
        assert company.requests == []
    assert result.exit_code == 2
    assert "measurement_usd" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (("--candidates", "clasical"), "Did you mean `classical`?"),
        (("--bar", "much"), "like 90%"),
        (("--model", "acme/large"), "acme"),
        (("--candidates", "zero"), "There is no model to ask"),
        (("--candidates", "classical", "--judge", "openai/gpt-4o-mini"), "Labels need no judge"),
    ],
)
def test_options_that_cannot_be_measured_are_refused_with_the_cure(
    arguments: tuple[str, ...], cure: str
) -> None:
    result = finetune("baseline", write_rows("rows.csv"), *arguments)
    assert result.exit_code == 2
    assert cure in result.stderr


@pytest.mark.parametrize(
    ("count", "labels"),
    [(40, ("refund", "login")), (30, tuple(f"label{i}" for i in range(10)))],
    ids=["a holdout of 12", "10 classes with 3 rows"],
)
def test_few_rows_get_scores_with_wide_intervals(count: int, labels: tuple[str, ...]) -> None:
    answer = baseline(write_rows("few.csv", count, labels), "--candidates", "classical")
    (candidate,) = answer["rungs"]
    assert candidate["high"] - candidate["low"] > 0.15
    assert answer["verdict"]["kind"] != "go"


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (
            tuple(f"label{i}" for i in range(20)),
            "Add rows, at least three different questions for some label",
        ),
        (("refund",), "All rows have the same label"),
    ],
    ids=["two rows a class", "one class"],
)
def test_labels_that_cannot_be_learnt_are_refused_with_the_reason(
    labels: tuple[str, ...], reason: str
) -> None:
    result = finetune("baseline", write_rows("rows.csv", 40, labels), "--candidates", "classical,encoder")
    assert result.exit_code == 2
    assert reason in result.output


@pytest.mark.deep
def test_both_free_candidates_measure_three_languages_and_advise_in_the_terminals_words() -> None:
    """The words of each language tell its labels apart. The encoder was made for English."""
    words = {
        "billing": ("the invoice is wrong", "die Rechnung stimmt nicht", "账单有误"),
        "shipping": ("the parcel is late", "das Paket kommt zu spät", "包裹还没有到"),
    }
    lines = [
        f"{words[label][number % 3]} {digest(number)},{label}"
        for number in range(60)
        for label in [list(words)[number % 2]]
    ]
    path = Path("three.csv")
    path.write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    answer, text = (
        baseline(path, "--candidates", "classical,encoder"),
        baseline_text(path, "--candidates", "encoder"),
    )
    assert scores(answer)["classical"] > 0.9 and "encoder" in scores(answer)
    assert "is for English" in text and "[encoder] in finetune.toml" in text
    reasons = " ".join(reason["text"] for reason in answer["verdict"]["reasons"])
    assert "No model can be asked here: set a provider's key where the bot runs" in reasons
    assert "/finetune" not in reasons and "=" not in reasons and "`" not in reasons


def test_a_curve_has_points_a_prediction_and_the_labels_to_label_next(tmp_path: Path) -> None:
    answer = finetune_json("curve", write_tickets(tmp_path / "few.csv", 180), "--predict", "2000")
    assert [point["n"] for point in answer["points"]] == [30, 61, 123]
    assert answer["gain"]["low"] < answer["gain"]["points"] < answer["gain"]["high"]
    assert answer["predicted"]["n"] == 2000
    assert answer["predicted"]["low"] < answer["predicted"]["score"] < answer["predicted"]["high"]
    assert answer["needs"][0]["label"]


def test_a_flat_curve_has_no_price_for_a_further_point() -> None:
    draw = random.Random(4)
    words = [" ".join(draw.choices(ascii_lowercase, k=12)) for _ in range(150)]
    file = Path("random.csv")
    file.write_text("text,label\n" + "".join(f"{text},{draw.choice('ab')}\n" for text in words))
    answer = finetune_json("curve", file, "--label-usd", "0.50")
    assert (answer["gain"]["told"], answer["usd_per_point"]) == (False, None)
    text = finetune("curve", file, "--label-usd", "$0.50").stdout
    assert "no measurable gain expected" in text
    assert "The cost of a further point is unknown" in text
    refused = finetune("curve", file, "--label-usd", "-1")
    assert refused.exit_code == 2 and "dollars for one label" in refused.stderr


def test_free_text_has_no_curve() -> None:
    result = finetune("curve", write_questions("faq.jsonl", 30))
    assert result.exit_code == 2
    assert "free text" in result.stderr


def test_a_model_judges_free_text_and_a_repeat_is_free() -> None:
    file = write_questions("faq.jsonl")
    arguments = (file, "--model", "acme/large", "--candidates", "zero,kshot", "--judge", "acme/sage")
    with provider(answer_or_judge, models=("large", "sage")) as company:
        with Path("finetune.toml").open("a") as toml:
            toml.write('[prices."acme/sage"]\ninput = "1.00"\noutput = "4.00"\n')
        answer = baseline(*arguments)
        requests = len(company.requests)
        text = baseline_text(*arguments)
        assert len(company.requests) == requests
    assert scores(answer) == {"zero": 0.0, "kshot": 1.0}
    assert answer["judge"]["model"] == "acme/sage" and answer["judge"]["failed"] is None
    pair = answer["judge"]["pair"]
    assert (pair["first"], pair["first_better"]) == ("kshot acme/large", answer["n"])
    assert "Judged by acme/sage; nobody has checked it yet." in text


def answer_or_judge(model: str, messages: Messages) -> str:
    """Answers well if it is shown examples; the judge sees that."""
    if model != "sage":
        return "good" if len(messages) > 2 else "bad"
    question = messages[-1]["content"]
    if "--- answer A ---" not in question:
        return "YES" if "--- answer ---\ngood" in question else "NO"
    return "A" if "--- answer A ---\ngood" in question else "B"


def test_without_a_readable_verdict_of_the_judge_shared_words_are_scored() -> None:
    with provider(lambda _model, _messages: "Hm."):
        arguments = (write_questions("faq.jsonl"), *ZERO, "--judge", "acme/large")
        answer, text = baseline(*arguments), baseline_text(*arguments)
    assert "no readable verdict" in answer["judge"]["failed"]
    assert "its own answers" in answer["judge"]["warning"]
    assert "The score is F1 instead, which only counts shared words." in text


def test_a_judge_without_a_key_is_refused() -> None:
    arguments = (write_questions("faq.jsonl"), "--model", "acme/large", "--judge", "openai/gpt-4o-mini")
    with provider():
        refused = finetune("baseline", *arguments)
    assert refused.exit_code == 2 and "OPENAI_API_KEY" in refused.stderr


def test_near_copies_stay_on_one_side_of_the_split_as_in_slack() -> None:
    file = write_rows("near.csv", 120)
    lines = file.read_text().splitlines()
    copies = [line.replace("back again", "back once again") for line in lines[1:]]
    file.write_text("\n".join([*lines, *copies]) + "\n")

    with datasets.checked_rows(file, None, Columns("text", "label"), {}) as rows:
        assert isinstance(rows, datasets.EvaluationRows)
        report = rows.report
        train, holdout = (
            {row.messages[-2].content.split("see ")[1] for row in read(part, part.name).examples}
            for part in (rows.files / f"{sha}.jsonl" for sha in (report.train_sha256, report.holdout_sha256))
        )
    assert train and holdout and not train & holdout
