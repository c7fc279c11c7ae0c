"""`finetune estimate` and `finetune prices`: chances, alternatives, the source of each price, and bad input."""

from __future__ import annotations

import csv
import json
import random
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bot.cli import estimates, main
from trainers.evaluation.results import Candidate, Ladder, Pair, Rung, Standing

ROOT = Path(__file__).parents[2]
TICKETS = ROOT / "examples" / "support_tickets.csv"


@pytest.fixture(autouse=True)
def nobody_s_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINETUNE_CONFIG", raising=False)
    monkeypatch.setattr(estimates, "utc_today", lambda: date(2026, 11, 27))


def finetune(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def estimated(*arguments: str | Path) -> dict[str, Any]:
    result = finetune("estimate", TICKETS, "--current", "gpt-4o", *arguments, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def measured(arm: Candidate, standing: Standing, right: int, tokens: int = 0) -> Rung:
    scores = (1.0,) * right + (0.0,) * (200 - right)
    return Rung(
        *(arm, "label", scores, right / 200, 0.87, 0.95, standing, None, 0.9, 0, 0),
        *(tokens, tokens, 0.1, 0.2, Decimal(0)),
    )


def baseline(folder: Path, standing: Standing, *others: Rung, pairs: tuple[Pair, ...] = ()) -> Path:
    classical, bar = measured(Candidate("classical"), standing, 184), 0.85
    cheapest = classical.arm if standing == "meets" else None
    ladder = Ladder("tickets", 1, "0" * 64, bar, (classical, *others), cheapest, pairs, 0.08, (), (), 1.0)
    file = folder / "baseline.json"
    file.write_text(json.dumps({"rungs": [], "ladder": json.loads(ladder.to_json())}), encoding="utf-8")
    return file


def test_an_estimate_carries_chances_tornado_and_the_source_of_each_price() -> None:
    answer = estimated("--volume", "1B", "--target", "gpt-4.1", "--hours", "10", "--rate", "100")
    outlook = answer["outlook"]
    assert outlook["draws"] == 10_000
    assert outlook["horizon_months"] == answer["horizon_months"] <= 2, "the model ends on 2027-01-14"
    assert outlook["months"][-1]["month"] == outlook["horizon_months"]
    assert 0 <= outlook["p_payback"] <= 1
    for name in ("payback_months", "saving_month_usd", "npv_usd"):
        assert set(outlook[name]) == {"p5", "p50", "p95"}
    assert {"name", "low_value", "high_value", "at_low_usd", "at_high_usd"} == set(outlook["tornado"][0])
    assert answer["break_even_tokens_per_month"] is None or answer["break_even_tokens_per_month"] > 0
    assert (answer["people_usd"], answer["npv_usd"] is None) == (1000, False)
    assert all(price["source"] for price in answer["prices"])
    tuned = answer["prices"][0]
    assert (tuned["model"], tuned["as_of"]) == ("openai/gpt-4.1-2025-04-14", "2026-11-24")
    assert any(price["source"].startswith("genai-prices ") for price in answer["prices"])


def test_nothing_measured_is_held_against_today_s_model() -> None:
    answer = estimated("--volume", "10M")
    assert answer["alternative"]["name"] == "today's model, gpt-4o"
    assert answer["alternative"]["monthly_usd"] == answer["monthly_before_total_usd"]
    assert answer["bar"] == 0.85


def test_a_free_rung_that_meets_the_bar_leaves_nothing_to_save(tmp_path: Path) -> None:
    answer = estimated("--volume", "10M", "--baseline", baseline(tmp_path, "meets"))
    assert answer["alternative"]["rung"] == "classical"
    assert (answer["alternative"]["score"], answer["alternative"]["n"]) == (0.92, 200)
    assert answer["monthly_before_usd"] == 25.0
    assert answer["verdict"]["kind"] == "no_go"
    assert answer["monthly_alternative_total_usd"] == 0
    for saving in ("saving_month_usd", "payback_months", "npv_usd", "break_even_tokens_per_month", "outlook"):
        assert answer[saving] is None
    assert answer["savings_withheld"].endswith("whatever it would save.")


def test_a_rung_that_misses_the_bar_is_no_alternative(tmp_path: Path) -> None:
    missing = estimated("--volume", "10M", "--baseline", baseline(tmp_path, "misses"))
    assert missing["alternative"]["name"] == "today's model, gpt-4o"
    assert "no measured alternative clearly meets the bar of 85%" in missing["alternative"]["sentence"]


def test_another_bar_judges_the_same_answers_again(tmp_path: Path) -> None:
    """184 of 200 right meet 85%, and not 95%."""
    file = baseline(tmp_path, "meets")
    assert (
        estimated("--volume", "10M", "--baseline", file, "--bar", "86%")["alternative"]["rung"] == "classical"
    )
    higher = estimated("--volume", "10M", "--baseline", file, "--bar", "95%")
    assert (higher["bar"], higher["alternative"]["name"]) == (0.95, "today's model, gpt-4o")


def test_better_answers_are_worth_what_a_wrong_one_costs(tmp_path: Path) -> None:
    """8 of 200 rows more are right: at 50 cents each, 2 cents a request. Without a price the free model is enough."""
    tuned = measured(Candidate("tuned", "local/ft"), "meets", 192, tokens=200 * 30)
    better = Pair(tuned.arm, Candidate("classical"), 0.04, 0.01, 0.08, 0.008)
    file = baseline(tmp_path, "meets", tuned, pairs=(better,))
    answer = estimated("--volume", "10M", "--prompt-tokens", "100", "--baseline", file, "--wrong-usd", "0.5")
    assert answer["errors_avoided_month_usd"] == pytest.approx(100_000 * 0.02)
    assert answer["saving_month_usd"] == pytest.approx(2000)
    assert answer["outlook"]["tornado"][0]["name"] == "quality"
    unsaid = estimated("--volume", "10M", "--prompt-tokens", "100", "--baseline", file)
    assert unsaid["errors_avoided_month_usd"] is None
    assert unsaid["verdict"]["headline"].startswith("Not now. The classical model meets the bar")


def test_fifteen_lines_decide_and_why_gives_the_rest() -> None:
    asked = ("estimate", TICKETS, "--current", "gpt-4o", "--volume", "10M")
    short, whole = finetune(*asked).stdout, finetune(*asked, "--why").stdout
    assert len(short.splitlines()) <= 15
    assert short.splitlines()[-1].startswith("Add --why") and "--why" not in whole
    assert whole.startswith(short[: short.index("Add --why")])
    for part in ("Assumptions", "What moves the net value", "Prices: "):
        assert part in whole and part not in short


def test_an_estimate_without_a_file_is_refused() -> None:
    result = finetune("estimate", "--current", "gpt-4o")
    assert result.exit_code == 2 and "Missing argument 'FILE'" in result.stderr


def test_the_verdict_comes_first_for_people() -> None:
    result = finetune("estimate", TICKETS, "--current", "gpt-4o", "--volume", "10M", "--why")
    lines = result.stdout.splitlines()
    assert lines[0] == (
        "Worth measuring: it would save about $27 a month until 2027-01-14 if it is good enough"
    )
    assert lines[2].startswith("support_tickets on local/smollm2-135m, 10M input tokens")
    for part in ("Compared with", "Pays back", "Net value over 12 months", "What moves the net value"):
        assert part in result.stdout


def test_no_volume_has_nothing_to_save() -> None:
    answer = estimated("--volume", "0")
    assert answer["verdict"]["kind"] == "no_go"
    assert "nothing to save" in answer["verdict"]["headline"]
    assert answer["payback_months"] is None


def test_what_a_person_says_changes_the_sums() -> None:
    answer = estimated(
        *("--volume", "10M", "--labels", "500", "--label-usd", "$0.10", "--prompt-tokens", "1500"),
        *("--retrain-months", "6", "--monitoring-usd", "20", "--batch", "30%"),
    )
    assert answer["labels_usd"] == 50
    assert answer["monthly_after_upkeep_usd"] == 20
    assert answer["monthly_before_usd"] < 25, "a long beginning is cached, and batches are cheaper"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--hours", "-1"), "“-1” can't be hours of people's time"),
        (("--rate", "abc"), "I can't read “abc” as dollars for an hour of a person"),
        (("--retrain-months", "0"), "“0” can't be months until it is trained again"),
        (("--bar", "200%"), "“200%” should be the share of right answers"),
        (("--utilisation", "0%"), "can't be a share of its time that the machine is busy"),
        (("--task", "cooking"), "There is no task “cooking”"),
        (("--volume", "-3M"), "I can't read “-3M” as a volume"),
    ],
)
def test_absurd_values_are_answered_with_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    result = finetune("estimate", TICKETS, "--current", "gpt-4o", *arguments, "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr.replace("\n", " ")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"ladder": {}}', '{"ladder": 3}', "\x00"])
def test_a_baseline_that_is_none_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "b.json").write_text(content)
    result = finetune("estimate", TICKETS, "--baseline", "b.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "finetune baseline FILE --json" in result.stderr


def test_a_model_that_has_ended_is_no_go() -> None:
    answer = estimated("--volume", "10B", "--target", "gpt-4.1-nano")
    assert answer["verdict"]["kind"] == "no_go"
    assert answer["outlook"] is answer["payback_months"] is None
    said = finetune(
        "estimate", TICKETS, "--current", "gpt-4o", "--volume", "1M", "--target", "gpt-4.1-nano", "--why"
    )
    for word in ("Saves a month", "Pays back within", "Net value over", "What moves"):
        assert word not in said.stdout


def test_a_hole_in_the_price_list_is_said_with_the_place_to_fill_it() -> None:
    answer = estimated("--volume", "10M", "--target", "nebius/llama-3.1-8b")
    assert answer["outlook"] is None
    assert any("[providers.nebius.models." in reason["text"] for reason in answer["verdict"]["reasons"]) or (
        "[providers.nebius.models." in answer["verdict"]["next_step"]
    )


@pytest.mark.parametrize(
    ("target", "prices"),
    [
        (
            "crusoe/llama-3.1-8b",
            "training $0.40 per 1M tokens, its machine $5.50 an hour, tokens free (Crusoe's price page, "
            "2026-09-20); confirmed with the vendor before approval",
        ),
        (
            "crusoe/qwen3.5-9b",
            "its machine $5.50 an hour, tokens free (Crusoe's catalogue, 2026-09-27); unknown: add training to "
            'finetune.toml under [providers.crusoe.models."Qwen/Qwen3.5-9B"]',
        ),
    ],
)  # fmt: skip
def test_a_vendors_prices_are_shown_with_who_says_so_also_where_one_is_missing(
    target: str, prices: str
) -> None:
    asked = ("current=gpt-4o", "volume=10M", f"target={target}", "--why")  # as in Slack
    assert prices in " ".join(finetune("estimate", TICKETS, *asked).stdout.split())


def test_todays_bill_is_shown_where_the_price_of_a_training_is_missing() -> None:
    told = finetune("estimate", TICKETS, "current=gpt-4o", "volume=10M", "target=nebius/llama-3.1-8b").stdout
    assert "about $27 a month" in told and "gpt-6-luna, about $1.10 a month" in told
    assert "unknown: add input, output and training to finetune.toml" in told


def test_measuring_on_a_machine_by_the_hour_is_in_what_a_run_costs() -> None:
    told = finetune("estimate", TICKETS, "--target", "crusoe/llama-3.1-8b").stdout
    assert "about $2.80, of which $2.75 for its machine during measuring" in told


def test_what_the_judge_of_a_free_run_takes_is_in_what_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-anything")
    rows = tmp_path / "answers.csv"
    said = "\n".join(
        f"Where is parcel {number}?,It is in hall {number} of our store." for number in range(400)
    )
    rows.write_text(f"text,label\n{said}\n", encoding="utf-8")
    asked = (
        "--target",
        "local/smollm2-135m",
        "--judge",
        "openai/gpt-4o",
        "--current",
        "gpt-4o",
        "--volume",
        "10M",
    )
    answer = json.loads(finetune("estimate", rows, *asked, "--json").stdout)
    told = finetune("estimate", rows, *asked, "--why").stdout
    assert answer["training_usd"] == 0 and answer["evaluation_usd"] == answer["one_off_usd"] > 0.1
    cost = f"${answer['evaluation_usd']:.2f}"
    for line in (f"One-off cost: about {cost}", f"a run costs about {cost}", f"Measuring, one-off: {cost}"):
        assert line in " ".join(told.split()), line
    assert "only your" not in told


def test_what_it_costs_once_is_shown_where_that_never_comes_back() -> None:
    asked = ("--volume", "5M", "--target", "gpt-4.1-mini", "--task", "quality", "--hours", "40")
    told = " ".join(finetune("estimate", TICKETS, "--current", "gpt-4o", *asked).stdout.split())
    assert (
        "Pays back: never" in told and "One-off cost: about $3,000, including staff time and labels" in told
    )


def test_what_saves_more_than_a_quarter_of_an_hour_costs_is_not_called_too_little() -> None:
    asked = ("--current", "gpt-4o", "--volume", "10M", "--target", "gpt-4.1-mini")
    told = " ".join(finetune("estimate", TICKETS, *asked).stdout.split())
    assert "Saves: about $21 a month" in told and "in 48 days" in told, (
        "so $32, and a quarter of an hour is $19"
    )
    assert "oo little is at stake" not in told


def test_a_saving_of_less_than_a_cent_is_not_called_nothing() -> None:
    asked = ("--current", "gpt-4o", "--volume", "1", "--target", "gpt-4.1-mini", "--why")
    told = " ".join(finetune("estimate", TICKETS, *asked).stdout.split())
    assert "Saves: under 1 cent a month" in told and "Saves a month: under 1 cent" in told


@pytest.mark.parametrize("price", ["-1", "1e30", "1e-30", "NaN", "€2.50", "2,50"])
def test_a_price_that_cannot_be_stops_an_estimate(tmp_path: Path, price: str) -> None:
    (tmp_path / "finetune.toml").write_text(f'[prices."x"]\ninput = "{price}"\noutput = "2"\n')
    result = finetune("estimate", TICKETS)
    assert result.exit_code == 2
    assert "should be USD per 1M tokens in quotes" in result.stderr


def test_the_next_step_is_a_command_of_the_terminal() -> None:
    asked = ("estimate", TICKETS, "--current", "gpt-4o", "--volume", "10M")
    said, answer = finetune(*asked, "--why").stdout, estimated("--volume", "10M")
    step = f"Measure the free models (finetune baseline {TICKETS} --rungs classical,encoder); it takes a few seconds."
    assert step in said and answer["verdict"]["next_step"] == step
    assert "how many hours of work will this take? add --hours." in said.lower()
    assert "/finetune" not in said and "/finetune" not in str(answer)
    assert {one["weighs"] for one in answer["verdict"]["reasons"]} == {True, False}


def test_prices_are_listed_with_who_says_so() -> None:
    result = finetune("prices")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "openai/gpt-4o-2024-08-06, tuned $3.75 $1.875 $15.00 $25.00 2027-01-14" in lines
    assert "OpenAI's price and deprecation pages, 2026-11-24" in lines[-1]
    keys = "add input, output and training to finetune.toml"
    assert f"price unknown: {keys} under [providers.nebius.models." in result.stdout


def test_a_hole_in_a_price_is_said_with_its_key(tmp_path: Path) -> None:
    hole = '[providers.openai.models."new"]\ninput = "1"\noutput = "2"\n'
    (tmp_path / "finetune.toml").write_text(hole)
    said = 'add training to finetune.toml under [providers.openai.models."new"].'
    shown = finetune("prices").stdout
    assert f"openai/new: price unknown: {said}" in shown and "your settings" in shown
    answer = estimated("--volume", "10M", "--target", "openai/new")
    assert said in str(answer["verdict"])


def test_a_named_model_shows_its_prompted_and_its_tuned_price() -> None:
    rows = json.loads(finetune("prices", "gpt-4o-mini", "--json").stdout)
    assert [(row["kind"], row["input"], row["training"]) for row in rows] == [
        ("prompted", 0.15, None),
        ("tuned", 0.3, 3.0),
    ]


def test_today_s_model_saves_only_until_it_ends() -> None:
    answer = estimated("--target", "local/smollm2-135m", "--volume", "10B")
    assert (answer["current_ends"], answer["successor"]) == ("2027-01-14", "gpt-6-luna")
    assert answer["verdict"]["kind"] != "go"
    assert answer["saving_month_usd"] > 26_000 and answer["npv_usd"] < 55_000
    assert any(reason["rule"] == "successor" and reason["weighs"] for reason in answer["verdict"]["reasons"])
    asked = ("--current", "gpt-4o", "--target", "local/smollm2-135m", "--volume", "10B")
    text = finetune("estimate", TICKETS, *asked, "--why").stdout
    assert "a month until 2027-01-14" in text
    assert "From 2027-01-14: saves $1,093 a month, compared with gpt-6-luna, the successor of gpt-4o" in text


def test_an_own_machine_says_how_many_it_takes_or_why_that_is_not_known(tmp_path: Path) -> None:
    own = ("--target", "local/smollm2-135m", "--volume", "1000B")
    unknown = estimated(*own)
    assert unknown["machines_needed"] is None and "finetune calibrate" in unknown["machines_reason"]
    assert any(one["rule"] == "machine" and one["weighs"] for one in unknown["verdict"]["reasons"])
    said = estimated(*own, "--serving-speed", "5000", "--utilisation", "50%")
    assert said["machines_needed"] > 100
    machines = [one["text"] for one in said["verdict"]["reasons"] if one["rule"] == "machine"]
    assert any(f"about {said['machines_needed']:,} machines like yours" in text for text in machines)
    assert estimated("--target", "gpt-4.1", "--volume", "1B")["machines_reason"] == "OpenAI serves it."


def test_a_model_that_has_ended_is_nobody_s_today_s_model() -> None:
    result = finetune("estimate", TICKETS, "--current", "o4-mini", "--volume", "10B", "--json")
    assert result.exit_code == 1 and not result.stdout
    assert result.stderr == (
        "o4-mini was shut down on 2026-10-23 and no longer answers. Its maker recommends gpt-5.6-terra instead.\n"
    )


def test_a_rung_whose_model_has_ended_since_is_no_alternative(tmp_path: Path) -> None:
    gone = measured(Candidate("zero", "openai/o4-mini"), "meets", 190, 20_000)
    answer = estimated("--volume", "1B", "--baseline", baseline(tmp_path, "misses", gone))
    assert answer["alternative"]["model"] == "gpt-4o"
    assert "o4-mini" not in str(answer["verdict"])


def test_ends_are_marked_in_prices() -> None:
    said = finetune("prices", "gpt-4o", "o4-mini").stdout
    assert "ends on 2027-01-14, then gpt-6-luna" in said and "ended on 2026-10-23, then gpt-5.6-terra" in said
    rows = {row["model"]: row for row in json.loads(finetune("prices", "o4-mini", "--json").stdout)}
    assert rows["o4-mini"]["has_ended"] is True and rows["o4-mini"]["ends"] == "2026-10-23"


def test_a_third_of_wrong_labels_is_a_no(tmp_path: Path) -> None:
    with TICKETS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels, dice = sorted({row["label"] for row in rows}), random.Random(1)
    for row in rows:
        if dice.random() < 0.33:
            row["label"] = dice.choice([label for label in labels if label != row["label"]])
    file_of_wrong = tmp_path / "wrong.csv"
    with file_of_wrong.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    how = ("--current", "gpt-4o", "--target", "local/smollm2-135m", "--volume", "10B", "--json")
    answer = json.loads(finetune("estimate", file_of_wrong, *how).stdout)
    assert answer["verdict"]["kind"] == "no_go"
    assert answer["verdict"]["reasons"][0]["rule"] == "wrong labels"
    assert answer["saving_month_usd"] is None


def test_an_unknown_name_gets_the_nearest_and_exit_code_1() -> None:
    result = finetune("prices", "gpt-4oo", "gpt-4o")
    assert result.exit_code == 1
    assert "No price is known for “gpt-4oo”. Did you mean gpt-4o" in result.stdout
    assert "\ngpt-4o " in result.stdout and "$2.50" in result.stdout


def test_expected_runs_count_in_tokens_dollars_and_evaluation() -> None:
    once, thrice = (estimated("--volume", "1B", "--target", "gpt-4.1", "--runs", runs) for runs in ("1", "3"))
    assert thrice["training_tokens"] == 3 * once["training_tokens"]
    for name in ("training_usd", "evaluation_usd"):
        assert once[name] and thrice[name] == pytest.approx(3 * once[name])
    assert thrice["one_off_usd"] == pytest.approx(3 * once["one_off_usd"])


def test_a_batch_discount_is_shown_with_each_price_that_it_is_taken_off() -> None:
    answer = estimated("--volume", "1B", "--target", "gpt-4.1", "--batch", "30%")
    assert [row["batch_discount"] for row in answer["prices"]] == [0.5, 0.5, 0.5]
    batches = next(one["value"] for one in answer["assumptions"] if one["name"] == "batches")
    assert batches.count("50% off") == 2, batches


@pytest.mark.parametrize(("target", "is_estimated"), [("gpt-4.1", False), ("local/smollm2-135m", True)])
def test_tokens_that_another_tokenizer_counted_are_called_an_estimate(
    target: str, is_estimated: bool
) -> None:
    answer = estimated("--volume", "10M", "--target", target)
    assert answer["training_tokens_estimated"] is is_estimated
    (training,) = [one for one in answer["assumptions"] if one["name"] == "training"]
    assert ("Estimated with" in training["why"]) is is_estimated and (
        "about" in training["value"]
    ) is is_estimated


def test_options_can_be_typed_as_in_slack_and_a_value_with_an_equals_sign_stays_one() -> None:
    in_slack = finetune("estimate", TICKETS, "current=gpt-4o", "volume=10M", "lora_r=8", "--json")
    assert in_slack.exit_code == 0, in_slack.output
    assert json.loads(in_slack.stdout) == estimated("--volume", "10M", "--lora-r", "8")
    assert "unexpected extra argument (volum=10M)" in finetune("estimate", TICKETS, "volum=10M").output
    assert "no column 'label=text'" in finetune("check", TICKETS, "--text", "label=text").output
