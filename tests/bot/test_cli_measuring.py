"""`finetune baseline` and `finetune curve`: a real HTTP provider answers, answers are kept, and JSON says
all."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import string
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bot.cli import datasets, main
from storage.store import Store
from tests.peers.hosted import KEY, NOTHING_BUT_500, Fault, Hosted
from tests.peers.service import Service
from trainers.dataset import Columns, read

ROOT = Path(__file__).parents[2]
TICKETS = ROOT / "examples" / "support_tickets.csv"
LABELS = ("billing", "delivery", "refund", "login")

SETTINGS = """
[budget]
measurement_usd = "{limit}"
[providers.acme]
title = "Acme"
base_url = "{url}"
key_env = "ACME_KEY"
abilities = ["chat"]
requests_per_minute = 6000
[prices."acme/large"]
input = "{price}"
output = "10.00"
"""


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("FINETUNE_CONFIG", "SLACK_BOT_TOKEN", "SLACK_APP_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACME_KEY", KEY)


def finetune(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def measured(*arguments: str | Path) -> dict[str, Any]:
    result = finetune("baseline", *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def settings(company: Hosted, *, limit: str = "5", price: str = "2.50") -> None:
    Path("finetune.toml").write_text(SETTINGS.format(url=company.url, limit=limit, price=price))


def tickets(folder: Path, count: int) -> Path:
    """The first of the example's."""
    path = folder / "few.csv"
    lines = TICKETS.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[: count + 1]), encoding="utf-8")
    return path


def rows(path: Path, count: int, labels: tuple[str, ...] = LABELS, first: int = 0) -> Path:
    """Different questions that name their label, so that words alone tell them apart."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(first, first + count):
            label = labels[number % len(labels)]
            case = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()  # no near copies
            writer.writerow([f"my {label} trouble number {number} is back again, see {case}", label])
    return path


def test_rung_0_alone_asks_nobody_and_says_what_it_found() -> None:
    found = measured(TICKETS, "--rungs", "classical")
    (rung,) = found["rungs"]
    assert (rung["name"], rung["model"], rung["n"], rung["usd_per_1000"]) == ("classical", None, 200, 0)
    assert rung["low"] < rung["score"] < rung["high"]
    assert found["rows_trained_on"] == 745
    assert found["verdict"]["next_step"]


def test_the_bar_is_the_policy_s_where_nobody_says_one() -> None:
    Path("finetune.toml").write_text("[policy.promotion]\nbar_percent = 40\n", encoding="utf-8")
    result = finetune("baseline", TICKETS, "--rungs", "classical")
    assert result.stdout.splitlines()[0].startswith("The classical model meets your 40% bar")


def test_a_second_baseline_in_the_same_folder_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "finetune"
    folder.mkdir(parents=True)
    store = Store(folder / "terminal.db")
    result = finetune("baseline", TICKETS, "--rungs", "classical")
    store.close()
    assert result.exit_code == 2
    assert "Another finetune baseline is using" in result.stderr


def test_the_text_gives_the_verdict_first_and_how_labels_were_read() -> None:
    result = finetune("baseline", TICKETS, "--rungs", "classical", "--bar", "40%")
    assert result.stdout.splitlines()[0].startswith("The classical model meets your 40% bar")
    assert "An answer counts as a label if" in result.stdout
    assert "`" not in result.stdout


def test_models_of_a_provider_are_asked_once_and_a_repeat_is_free(tmp_path: Path) -> None:
    file = rows(tmp_path / "rows.csv", 300)
    with Hosted(Service(models=("large",), answer=lambda _, said: said[-1]["content"].split()[1])) as company:
        settings(company)
        first = measured(file, "--model", "acme/large", "--rungs", "zero,kshot")
        asked = len(company.requests)
        again = measured(file, "--model", "acme/large", "--rungs", "zero,kshot")
        assert len(company.requests) == asked
    assert [(rung["name"], rung["score"]) for rung in first["rungs"]] == [("zero", 1.0), ("kshot", 1.0)]
    assert first["rungs"][0]["usd_per_1000"] > 0
    assert asked == 2 * first["n"]
    assert [rung["score"] for rung in again["rungs"]] == [1.0, 1.0]


def test_a_better_prompt_is_looked_for_on_training_rows_and_a_repeat_is_free(tmp_path: Path) -> None:
    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        text = messages[-1]["content"]
        if len(messages) == 1:
            return f"Better:\n```\n{text.split('```')[1].strip()} Take the second word.\n```"
        return text.split()[1] if "second word" in messages[0]["content"] else "billing"

    file = rows(tmp_path / "rows.csv", 300)
    arguments = (file, "--model", "acme/large", "--rungs", "zero", "--prompt", "Sort it.", "--optimise", "2")
    with Hosted(Service(models=("large",), answer=answer)) as company:
        settings(company)
        first = measured(*arguments)
        asked = len(company.requests)
        again = measured(*arguments)
        assert len(company.requests) == asked
    assert {rung["name"]: rung["score"] for rung in first["rungs"]} == {"zero": 0.25, "optimised": 1.0}
    search = first["search"]
    assert (search["before"], search["prompt"]) == ("Sort it.", "Sort it. Take the second word.")
    assert search["share_before"] < search["share"] == 1.0 and search["rows"] == 60
    assert 0 < search["usd"] < 2 and again["search"]["usd"] == 0
    assert first["cheapest"] == "optimised acme/large"


def test_a_provider_that_asks_for_no_key_is_asked_without_one(tmp_path: Path) -> None:
    """As Ollama and vLLM at a loopback address."""
    file = rows(tmp_path / "rows.csv", 60)
    service = Service(models=("large",), answer=lambda _, said: said[-1]["content"].split()[1])
    with Hosted(service, key="none") as company:
        settings(company)
        keyless = Path("finetune.toml").read_text().replace('key_env = "ACME_KEY"\n', "")
        Path("finetune.toml").write_text(keyless)
        found = measured(file, "--model", "acme/large", "--rungs", "zero")
    assert [(rung["name"], rung["score"]) for rung in found["rungs"]] == [("zero", 1.0)]


def test_the_estimate_reads_what_the_baseline_printed(tmp_path: Path) -> None:
    file = rows(tmp_path / "rows.csv", 300)
    kept = tmp_path / "baseline.json"
    kept.write_text(json.dumps(measured(file, "--rungs", "classical")))
    result = finetune("estimate", file, "--baseline", kept, "--current", "gpt-4o", "--volume", "1B", "--json")
    found = json.loads(result.stdout)
    assert found["verdict"]["kind"] == "no_go"
    assert "classical model meets the bar" in found["verdict"]["headline"]


def test_a_hiccup_of_the_provider_costs_no_answer(tmp_path: Path) -> None:
    file = rows(tmp_path / "rows.csv", 60)
    with Hosted(Service(models=("large",), answer=lambda _, said: "refund")) as company:
        settings(company)
        company.fail("POST /chat/completions", NOTHING_BUT_500)
        found = measured(file, "--model", "acme/large", "--rungs", "classical,zero")
    assert [rung["name"] for rung in found["rungs"]] == ["classical", "zero"]
    assert found["failed"] == []


def test_rows_that_the_given_holdout_asks_stay_out_of_the_learning(tmp_path: Path) -> None:
    file = rows(tmp_path / "train.csv", 120)
    holdout = rows(tmp_path / "test.csv", 60, first=100)
    found = measured(file, "--holdout", holdout, "--rungs", "classical")
    assert (found["n"], found["rows_left_out"], found["rows_trained_on"]) == (60, 20, 100)


def test_rows_that_nearly_ask_what_the_given_holdout_asks_stay_and_are_said(tmp_path: Path) -> None:
    file = rows(tmp_path / "train.csv", 120)
    near = "please tell me at once where the parcel is that I ordered with you last week"
    file.write_text(f"{file.read_text().rstrip()}\n{near},refund\n")
    holdout = tmp_path / "test.csv"
    holdout.write_text(f"text,label\n{near} now,refund\nis the shop in town open on Sundays,refund\n")
    arguments = ("baseline", file, "--holdout", holdout, "--rungs", "classical")
    assert measured(*arguments[1:])["rows_nearly_held_out"] == 1
    assert "1 row asked nearly the same as the holdout, and was learnt from" in finetune(*arguments).stdout


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("same.csv", None, "no row is left to learn from"),
        ("empty.csv", "text,label\n", "there are no rows in it"),
        ("other.csv", "frage,klasse\nx,refund\n", "no column 'text'"),
        ("free.csv", "text,label\nwhere is it,It is on its way to you\n", "none of its answers is a label"),
        ("key.csv", "text,label\nAKIAQ3EGZLNK4RT7XW2B is my key,refund\n", "secret"),
    ],
)
def test_a_holdout_that_measures_nothing_is_refused(
    tmp_path: Path, name: str, content: str | None, said: str
) -> None:
    file, holdout = rows(tmp_path / "rows.csv", 120), tmp_path / name
    holdout.write_text(file.read_text() if content is None else content)
    result = finetune("baseline", file, "--holdout", holdout, "--rungs", "classical")
    assert result.exit_code == 2 and name in result.stderr and said in result.stderr.lower() + result.stderr


def test_held_out_rows_whose_label_the_file_does_not_know_are_counted(tmp_path: Path) -> None:
    file = rows(tmp_path / "rows.csv", 120)
    holdout = rows(tmp_path / "test.csv", 40, ("refund", "wholly new"), first=200)
    arguments = (file, "--holdout", holdout, "--rungs", "classical")
    assert measured(*arguments)["rows_with_foreign_labels"] == 20
    assert (
        "20 held-out rows have a label that the file does not have" in finetune("baseline", *arguments).stdout
    )


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(commit=False, status=400, code="content_filter"), id="declines"),
        pytest.param(
            Fault(commit=False, status=200, body=b'{"choices": ['),
            id="speaks no JSON",
            marks=pytest.mark.slow,
        ),  # asked again and again for 20 s
    ],
)
def test_a_model_that_answers_nothing_is_left_out_and_not_called_bad(tmp_path: Path, fault: Fault) -> None:
    file = rows(tmp_path / "rows.csv", 60)
    with Hosted(Service(models=("large",))) as company:
        settings(company)
        company.fail("POST /chat/completions", fault, times=999)
        arguments = (file, "--model", "acme/large", "--rungs", "classical,zero")
        found, text = measured(*arguments), finetune("baseline", *arguments).stdout
    assert [rung["name"] for rung in found["rungs"]] == ["classical"]
    assert [one["name"] for one in found["failed"]] == ["zero"] and "acme" in found["failed"][0]["why"]
    assert "Left out: prompt alone, acme/large" in text


def test_declined_rows_are_counted_with_the_reason_and_have_no_price(tmp_path: Path) -> None:
    file = rows(tmp_path / "rows.csv", 300)
    with Hosted(Service(models=("large",), answer=lambda _, said: said[-1]["content"].split()[1])) as company:
        settings(company)
        whole = measured(file, "--model", "acme/large", "--rungs", "zero", "--prompt", "Sort it.")
        company.fail(
            "POST /chat/completions", Fault(commit=False, status=400, code="content_filter"), times=4
        )
        arguments = (file, "--model", "acme/large", "--rungs", "zero")
        found = measured(*arguments, "--prompt", "Sort this.")
    (rung,), (declined,) = found["rungs"], found["declined"]
    assert (declined["questions"], rung["empty"]) == (4, 4) and "HTTP 400" in declined["why"]
    assert rung["usd_per_1000"] == pytest.approx(whole["rungs"][0]["usd_per_1000"], rel=0.02)


def test_the_price_is_said_before_also_where_nobody_watches(tmp_path: Path) -> None:
    file = rows(tmp_path / "rows.csv", 300)
    with Hosted(Service(models=("large",), answer=lambda _, said: "refund")) as company:
        settings(company)
        result = finetune("baseline", file, "--model", "acme/large", "--rungs", "zero")
    assert result.stderr.startswith("This costs at most $0.0") and "at most" in result.stderr
    assert " empty." not in result.stdout


def test_empty_answers_are_said_to_be_wrong(tmp_path: Path) -> None:
    file = rows(tmp_path / "rows.csv", 60)
    with Hosted(Service(models=("large",), answer=lambda _, said: "")) as company:
        settings(company)
        text = finetune("baseline", file, "--model", "acme/large", "--rungs", "zero").stdout
    assert "20 of 20 answers (prompt alone, acme/large) were empty and count as wrong." in text


def test_a_provider_in_endless_trouble_is_given_up_on_and_what_came_is_kept(tmp_path: Path) -> None:
    file = rows(tmp_path / "rows.csv", 60)
    asked = ("baseline", file, "--model", "acme/large", "--rungs", "zero")
    with Hosted(Service(models=("large",), answer=lambda _, said: "refund")) as company:
        settings(company)
        company.fail("POST /chat/completions", NOTHING_BUT_500, times=1000)
        result = finetune(*asked, "--patience", "0.01")
        assert result.exit_code == 2
        assert "No answer came for 0.01 minutes." in result.stderr and "busy or failing" in result.stderr
        assert "run the same command to go on from there" in result.stderr


def test_the_advice_is_in_the_terminal_s_words(tmp_path: Path) -> None:
    found = measured(tickets(tmp_path, 200), "--rungs", "classical,encoder")
    texts = " ".join(one["text"] for one in found["verdict"]["reasons"])
    assert "No model can be asked here: set a provider's key where the bot runs" in texts
    assert "/finetune" not in texts and "=" not in texts and "`" not in texts


def test_personal_data_leaves_for_a_vendor_only_with_a_word_that_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    rows(file, 120)
    file.write_text(file.read_text().replace("number 3 is", "of ana.kovac@example.com is"))
    Path("finetune.toml").write_text(
        SETTINGS.format(url="https://api.acme.invalid/v1", limit="5", price="2.50")
    )
    arguments = ("baseline", file, "--model", "acme/large", "--rungs", "zero")
    refused = finetune(*arguments)
    assert refused.exit_code == 2 and "--waive" in refused.stderr and "personal data" in refused.stderr
    assert "at least 3 words" in finetune(*arguments, "--waive", "ok").stderr
    assert finetune("baseline", file, "--rungs", "classical").exit_code == 0


def test_the_word_that_lets_personal_data_leave_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.providers.is_loopback", lambda _: False)
    file = rows(tmp_path / "people.csv", 60)
    file.write_text(file.read_text().replace("number 3 is", "of ana.kovac@example.com is"))
    with Hosted(Service(models=("large",), answer=lambda _, said: "refund")) as company:
        settings(company)
        measured(file, "--model", "acme/large", "--rungs", "zero", "--waive", "the customers agreed to it")
    store = Store(Path("data") / "terminal.db")
    (entry,) = store.audit.entries("file people.csv")
    store.close()
    assert (entry.action, entry.detail) == ("waive", "to Acme: the customers agreed to it")


def test_what_would_cost_more_than_is_allowed_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    file = rows(tmp_path / "rows.csv", 300)
    with Hosted() as company:
        settings(company, limit="0.001")
        result = finetune("baseline", file, "--model", "acme/large", "--rungs", "zero")
        assert company.requests == []
    assert result.exit_code == 2
    assert "measurement_usd" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rungs", "clasical"), "Did you mean `classical`?"),
        (("--bar", "much"), "like 90%"),
        (("--model", "acme/large"), "acme"),
        (("--rungs", "zero"), "There is no model to ask"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_cure(arguments: tuple[str, ...], said: str) -> None:
    result = finetune("baseline", TICKETS, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("count", "labels"),
    [(40, ("refund", "login")), (30, tuple(f"label{i}" for i in range(10)))],
    ids=["a holdout of 12", "10 classes with 3 rows"],
)
def test_few_rows_get_figures_with_wide_intervals(
    tmp_path: Path, count: int, labels: tuple[str, ...]
) -> None:
    found = measured(rows(tmp_path / "few.csv", count, labels), "--rungs", "classical")
    (rung,) = found["rungs"]
    assert rung["high"] - rung["low"] > 0.15
    assert found["verdict"]["kind"] != "go"


def test_two_rows_a_class_can_t_be_measured_and_it_says_why(tmp_path: Path) -> None:
    few = rows(tmp_path / "two.csv", 40, tuple(f"label{i}" for i in range(20)))
    result = finetune("baseline", few, "--rungs", "classical,encoder")
    assert result.exit_code == 2
    assert "Add rows, at least three different questions for some label" in result.output


def test_rows_in_three_languages_are_measured_and_the_encoder_s_is_said(tmp_path: Path) -> None:
    """The words of each language tell labels apart."""
    words = {
        "billing": ("the invoice is wrong", "die Rechnung stimmt nicht", "账单有误"),
        "shipping": ("the parcel is late", "das Paket kommt zu spät", "包裹还没有到"),
    }
    path = tmp_path / "three.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(120):
            label = list(words)[number % 2]
            case = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()
            writer.writerow([f"{words[label][number % 3]} {case}", label])
    found, text = measured(path, "--rungs", "classical"), finetune("baseline", path, "--rungs", "encoder")
    assert found["rungs"][0]["score"] > 0.9
    assert "is for English" in text.stdout and "[encoder] in finetune.toml" in text.stdout


def test_one_class_is_refused(tmp_path: Path) -> None:
    result = finetune("baseline", rows(tmp_path / "one.csv", 60, ("refund",)), "--rungs", "classical")
    assert result.exit_code == 2
    assert "All rows have the same label" in result.stderr


def test_the_curve_says_its_points_its_prediction_and_the_labels_to_label_next(tmp_path: Path) -> None:
    result = finetune("curve", tickets(tmp_path, 400), "--predict", "2000", "--json")
    found = json.loads(result.stdout)
    assert [point["n"] for point in found["points"]] == [67, 135, 271]
    assert found["gain"]["low"] < found["gain"]["points"] < found["gain"]["high"]
    assert found["predicted"]["n"] == 2000
    assert found["predicted"]["low"] < found["predicted"]["score"] < found["predicted"]["high"]
    assert found["needs"][0]["label"] in {"app_bug", "feature_request"}


def test_a_point_has_no_price_where_the_curve_can_not_tell_whether_rows_bring_any(tmp_path: Path) -> None:
    draw = random.Random(4)
    words = [" ".join(draw.choices(string.ascii_lowercase, k=12)) for _ in range(300)]
    nothing_to_learn = tmp_path / "random.csv"
    nothing_to_learn.write_text("text,label\n" + "".join(f"{text},{draw.choice('ab')}\n" for text in words))
    found = json.loads(finetune("curve", nothing_to_learn, "--label-usd", "0.50", "--json").stdout)
    assert (found["gain"]["told"], found["usd_per_point"]) == (False, None)
    said = finetune("curve", nothing_to_learn, "--label-usd", "$0.50").stdout
    assert "no measurable gain expected" in said
    assert "The cost of a further point is unknown" in said
    refused = finetune("curve", TICKETS, "--label-usd", "-1")
    assert refused.exit_code == 2 and "dollars for one label" in refused.stderr


def test_a_curve_of_free_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "free.jsonl"
    with file.open("w") as out:
        for number in range(30):
            messages = [
                {"role": "user", "content": f"question {number}"},
                {
                    "role": "assistant",
                    "content": f"an answer of its own for {number}, and a long one at that",
                },
            ]
            out.write(json.dumps({"messages": messages}) + "\n")
    result = finetune("curve", file)
    assert result.exit_code == 2
    assert "free text" in result.stderr


def test_free_text_is_judged_by_a_model_and_the_json_says_how(tmp_path: Path) -> None:
    file = questions(tmp_path / "faq.jsonl", 120)
    with Hosted(Service(models=("large", "sage"), answer=answer_or_judge)) as company:
        settings(company)
        with Path("finetune.toml").open("a") as more:
            more.write('[prices."acme/sage"]\ninput = "1.00"\noutput = "4.00"\n')
        arguments = (file, "--model", "acme/large", "--rungs", "zero,kshot", "--judge", "acme/sage")
        found = measured(*arguments)
        asked = len(company.requests)
        text = finetune("baseline", *arguments)
        assert len(company.requests) == asked, "a repeat is free"
    scores = {rung["name"]: rung["score"] for rung in found["rungs"]}
    assert scores == {"zero": 0.0, "kshot": 1.0}
    assert found["judge"]["model"] == "acme/sage" and found["judge"]["failed"] is None
    pair = found["judge"]["pair"]
    assert (pair["first"], pair["first_better"]) == ("kshot acme/large", found["n"])
    assert "Judged by acme/sage, agreement with people not measured yet." in text.stdout


def test_a_judge_that_only_talks_is_told_and_shared_words_count(tmp_path: Path) -> None:
    file = questions(tmp_path / "faq.jsonl", 120)
    with Hosted(Service(models=("large",), answer=lambda _model, _said: "Hm.")) as company:
        settings(company)
        arguments = (file, "--model", "acme/large", "--rungs", "zero", "--judge", "acme/large")
        found, text = measured(*arguments), finetune("baseline", *arguments)
    assert (
        "no readable verdict" in found["judge"]["failed"] and "its own answers" in found["judge"]["warning"]
    )
    assert "The score is F1 instead, which only counts shared words." in text.stdout


def test_a_judge_for_labels_or_without_a_key_is_refused(tmp_path: Path) -> None:
    refused = finetune("baseline", TICKETS, "--rungs", "classical", "--judge", "openai/gpt-4o-mini")
    assert refused.exit_code == 2 and "Labels need no judge" in refused.stderr
    with Hosted(Service(models=("large",))) as company:
        settings(company)
        file = questions(tmp_path / "faq.jsonl", 120)
        refused = finetune("baseline", file, "--model", "acme/large", "--judge", "openai/gpt-4o-mini")
    assert refused.exit_code == 2 and "OPENAI_API_KEY" in refused.stderr


def questions(path: Path, count: int) -> Path:
    chance = random.Random(7)
    words = ["".join(chance.choices(ascii_lowercase, k=6)) for _ in range(400)]
    said = [
        {"role": "user", "content": ""},
        {"role": "assistant", "content": ""},
    ]
    with path.open("w") as file:
        for number in range(count):
            said[0]["content"] = " ".join(chance.sample(words, 9))
            said[1]["content"] = f"It is number {number}."
            file.write(json.dumps({"messages": said}) + "\n")
    return path


def answer_or_judge(model: str, messages: list[dict[str, Any]]) -> str:
    """With examples shown the answer is good, and the judge sees that."""
    if model != "sage":
        return "good" if len(messages) > 2 else "bad"
    asked = messages[-1]["content"]
    if "--- answer A ---" not in asked:
        return "YES" if "--- answer ---\ngood" in asked else "NO"
    return "A" if "--- answer A ---\ngood" in asked else "B"


def test_near_copies_stay_on_one_side_of_the_split_as_in_slack(tmp_path: Path) -> None:
    file = rows(tmp_path / "near.csv", 300)
    lines = file.read_text().splitlines()
    twice = [line.replace("back again", "back once again") for line in lines[1:]]
    file.write_text("\n".join([*lines, *twice]) + "\n")

    with datasets.checked_rows(file, None, Columns("text", "label"), {}) as found:
        assert isinstance(found, datasets.EvaluationRows)
        report = found.report
        sides = [
            {row.messages[-2].content.split("see ")[1] for row in read(part, part.name).examples}
            for part in (found.files / f"{sha}.jsonl" for sha in (report.train_sha256, report.holdout_sha256))
        ]
    assert all(sides) and not sides[0] & sides[1]
