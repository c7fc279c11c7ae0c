"""`finetune estimate` and `finetune prices`: chances, alternatives, the source of each price, and bad input."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from benchmarks._flawed import write
from benchmarks._planted import make_texts, mislabel
from bot.cli import estimates
from tests.bot.cli_runner import ROOT, finetune, finetune_json, write_tickets
from trainers.evaluation.results import Candidate, Comparison, MeasuredCandidate, Pair, Standing

FLAWED = ROOT / "examples" / "support_tickets_flawed.jsonl"
FILE = "tickets.csv"
ROWS = 210  # savings are shown from 200 rows on


@pytest.fixture(autouse=True)
def folder_with_tickets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked_once: None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINETUNE_CONFIG", raising=False)
    monkeypatch.setattr(estimates, "utc_today", lambda: date(2026, 11, 27))
    write_tickets(tmp_path / FILE, ROWS)


def estimate(*arguments: str | Path) -> dict[str, Any]:
    return finetune_json("estimate", FILE, "--current", "gpt-4o", *arguments)


def estimate_text(*arguments: str | Path) -> str:
    """Returns the estimate for people as one line with single spaces."""
    return " ".join(finetune("estimate", FILE, *arguments).stdout.split())


def measured_candidate(
    candidate: Candidate, standing: Standing, right: int, tokens: int = 0
) -> MeasuredCandidate:
    scores = (1.0,) * right + (0.0,) * (200 - right)
    return MeasuredCandidate(
        *(candidate, "label", scores, right / 200, 0.87, 0.95, standing, None, 0.9, 0, 0),
        *(tokens, tokens, 0.1, 0.2, Decimal(0)),
    )


def write_baseline(
    folder: Path,
    standing: Standing,
    *others: MeasuredCandidate,
    pairs: tuple[Pair, ...] = (),
    name: str = "baseline",
    holdout: str = "0" * 64,
) -> Path:
    """Writes what `finetune baseline --json` prints, with a classical model that got 184 of 200 rows right."""
    classical, bar = measured_candidate(Candidate("classical"), standing, 184), 0.85
    cheapest = classical.identity if standing == "meets" else None
    comparison = Comparison(
        "tickets", 1, holdout, bar, (classical, *others), cheapest, pairs, 0.08, (), (), 1.0
    )
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"rungs": [], "ladder": json.loads(comparison.to_json())}), encoding="utf-8")
    return file


def test_an_estimate_has_chances_swings_and_the_source_of_each_price() -> None:
    answer = estimate("--volume", "1B", "--target", "gpt-4.1", "--hours", "10", "--rate", "100")
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
    assert answer["machines_reason"] == "OpenAI serves it."
    assert answer["training_tokens_estimated"] is False, "gpt-4.1's own tokenizer counts them"


def test_todays_model_costs_its_price_times_the_volume_and_is_the_alternative_if_none_is_measured() -> None:
    answer = estimate("--volume", "10M")
    assert (answer["monthly_input_tokens"], answer["monthly_before_usd"]) == (10_000_000, 25.0)
    total = answer["monthly_before_usd"] + answer["monthly_before_output_usd"]
    assert answer["monthly_before_total_usd"] == pytest.approx(total)
    assert answer["alternative"]["name"] == "today's model, gpt-4o"
    assert answer["alternative"]["monthly_usd"] == answer["monthly_before_total_usd"]
    assert (answer["dataset"], answer["current"], answer["bar"]) == ("tickets", "gpt-4o", 0.85)
    assert answer["target"].startswith("local/")
    assert all(assumption["why"] for assumption in answer["assumptions"])
    twice = estimate("--volume", "20M")
    assert twice["monthly_before_total_usd"] == pytest.approx(2 * total)
    assert twice["training_tokens"] == answer["training_tokens"]


def test_without_todays_model_the_saving_is_unknown_rather_than_zero() -> None:
    answer = finetune_json("estimate", FILE)
    assert answer["monthly_before_usd"] is answer["saving_month_usd"] is None
    assert answer["training_tokens"] > 0
    assert any("is unknown" in reason["text"] for reason in answer["verdict"]["reasons"])


def test_a_free_candidate_that_meets_the_bar_leaves_nothing_to_save(tmp_path: Path) -> None:
    answer = estimate("--volume", "10M", "--baseline", write_baseline(tmp_path, "meets"))
    assert answer["alternative"]["rung"] == "classical"
    assert (answer["alternative"]["score"], answer["alternative"]["n"]) == (0.92, 200)
    assert answer["monthly_before_usd"] == 25.0
    assert answer["verdict"]["kind"] == "no_go"
    assert answer["monthly_alternative_total_usd"] == 0
    for saving in ("saving_month_usd", "payback_months", "npv_usd", "break_even_tokens_per_month", "outlook"):
        assert answer[saving] is None
    assert answer["savings_withheld"].endswith("whatever it would save.")


@pytest.mark.parametrize("answered", [299, 301])
def test_todays_measured_model_costs_the_same_today_and_as_the_alternative(
    tmp_path: Path, answered: int
) -> None:
    measured = measured_candidate(Candidate("zero", "openai/gpt-4o"), "meets", 190, 20_000)
    measured = replace(measured, completion_tokens=answered)
    answer = estimate("--volume", "1B", "--baseline", write_baseline(tmp_path, "misses", measured))
    assert answer["alternative"]["name"] == "the prompt alone on openai/gpt-4o"
    assert answer["alternative"]["monthly_usd"] == answer["monthly_before_total_usd"]


def test_a_candidate_that_misses_the_bar_or_whose_model_has_ended_is_no_alternative(tmp_path: Path) -> None:
    ended = measured_candidate(Candidate("zero", "openai/o4-mini"), "meets", 190, 20_000)
    answer = estimate("--volume", "1B", "--baseline", write_baseline(tmp_path, "misses", ended))
    assert answer["alternative"]["model"] == "gpt-4o"
    assert "no measured alternative clearly meets the bar of 85%" in answer["alternative"]["sentence"]
    assert "o4-mini" not in str(answer["verdict"])


def test_another_bar_judges_the_stored_answers_again(tmp_path: Path) -> None:
    """184 of 200 right meet 86%, but not 95%."""
    file = write_baseline(tmp_path, "meets")
    lower, higher = (estimate("--volume", "10M", "--baseline", file, "--bar", bar) for bar in ("86%", "95%"))
    assert lower["alternative"]["rung"] == "classical"
    assert (higher["bar"], higher["alternative"]["name"]) == (0.95, "today's model, gpt-4o")


def test_several_baselines_of_one_file_count_together(tmp_path: Path) -> None:
    prompted = measured_candidate(Candidate("zero", "openai/gpt-4o"), "meets", 196, 20_000)
    examples = measured_candidate(Candidate("kshot", "openai/gpt-4o"), "misses", 120, 90_000)
    first = write_baseline(tmp_path, "misses", prompted, name="first")
    second = write_baseline(tmp_path, "misses", examples, name="second")
    question = ("--volume", "10M", "--bar", "94%", "--baseline", second)
    alone = estimate(*question)
    both = estimate(*question, "--baseline", first)
    assert alone["alternative"]["name"] == "today's model, gpt-4o"
    assert both["alternative"]["name"] == "the prompt alone on openai/gpt-4o"


def test_baselines_of_other_rows_are_refused(tmp_path: Path) -> None:
    first = write_baseline(tmp_path, "misses", name="first")
    second = write_baseline(tmp_path, "misses", name="second", holdout="1" * 64)
    answer = finetune("estimate", FILE, "--baseline", first, "--baseline", second)
    assert answer.exit_code == 2
    assert "can't be joined: they were measured on other held-out rows" in answer.stderr


def test_better_answers_are_worth_what_a_wrong_one_costs(tmp_path: Path) -> None:
    """8 of 200 rows more are right: at 50 cents each, 2 cents a request. Without a price the free model is enough."""
    tuned = measured_candidate(Candidate("tuned", "local/ft"), "meets", 192, tokens=200 * 30)
    better = Pair(tuned.identity, Candidate("classical"), 0.04, 0.01, 0.08, 0.008)
    file = write_baseline(tmp_path, "meets", tuned, pairs=(better,))
    question = ("--volume", "10M", "--prompt-tokens", "100", "--baseline", file)
    answer = estimate(*question, "--wrong-usd", "0.5")
    assert answer["errors_avoided_month_usd"] == pytest.approx(100_000 * 0.02)
    assert answer["saving_month_usd"] == pytest.approx(2000)
    assert answer["outlook"]["tornado"][0]["name"] == "quality"
    without_price = estimate(*question)
    assert without_price["errors_avoided_month_usd"] is None
    assert without_price["verdict"]["headline"].startswith("Not now. The classical model meets the bar")


def test_people_read_the_verdict_in_fifteen_lines_and_the_rest_with_why() -> None:
    question = ("estimate", FILE, "--current", "gpt-4o", "--volume", "10M")
    short, long = finetune(*question).stdout, finetune(*question, "--why").stdout
    assert len(short.splitlines()) <= 15
    assert short.splitlines()[-1].startswith("Add --why") and "--why" not in long
    assert long.startswith(short[: short.index("Add --why")])
    for part in ("Assumptions", "What moves the net value", "Prices: "):
        assert part in long and part not in short
    lines = long.splitlines()
    assert lines[0].startswith("Worth measuring: it would save about $2")
    assert lines[2].startswith(
        "tickets on local/smollm2-135m, about 124,000 requests a month (10M input tokens)"
    )
    for part in ("Compared with", "Pays back", "Net value over 12 months", "$25"):
        assert part in long

    answer = estimate("--volume", "10M")
    step = f"Measure the free models (finetune baseline {FILE} --candidates classical,encoder); it takes a few seconds."
    assert step in long and answer["verdict"]["next_step"] == step
    assert "how many hours of work will this take? add --hours." in long.lower()
    assert "/finetune" not in long + str(answer) and "`" not in long
    assert {reason["weighs"] for reason in answer["verdict"]["reasons"]} == {True, False}


def test_without_any_volume_there_is_nothing_to_save() -> None:
    answer = estimate("--volume", "0")
    assert answer["verdict"]["kind"] == "no_go"
    assert "nothing to save" in answer["verdict"]["headline"]
    assert answer["payback_months"] is None


def test_options_change_the_sums() -> None:
    answer = estimate(
        *("--volume", "10M", "--labels", "500", "--label-usd", "$0.10", "--prompt-tokens", "1500"),
        *("--retrain-months", "6", "--monitoring-usd", "20", "--batch", "30%"),
    )
    assert answer["labels_usd"] == 50
    assert answer["monthly_after_upkeep_usd"] == 20
    assert answer["monthly_before_usd"] < 25, "the start of a long prompt is cached, and batches are cheaper"
    batched = estimate("--volume", "1B", "--target", "gpt-4.1", "--batch", "30%")
    assert [price["batch_discount"] for price in batched["prices"]] == [0.5, 0.5, 0.5]
    batches = next(row["value"] for row in batched["assumptions"] if row["name"] == "batches")
    assert batches.count("50% off") == 2, batches


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
        (("--volume", "10M", "--current", "gpt-4oo"), "Did you mean gpt-4o"),
        (("--target", "local/smollm2-135n"), "Did you mean local/smollm2-135m?"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_with_a_sentence(
    arguments: tuple[str, ...], sentence: str
) -> None:
    result = finetune("estimate", FILE, *arguments, "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr.replace("\n", " ")


def test_a_missing_or_flawed_file_is_not_estimated() -> None:
    missing, flawed = finetune("estimate", "--current", "gpt-4o"), finetune("estimate", FLAWED, "--json")
    assert missing.exit_code == 2 and "Missing argument 'FILE'" in missing.stderr
    assert (flawed.exit_code, flawed.stdout) == (2, "")
    assert "first; then training on it can be estimated" in flawed.stderr


@pytest.mark.parametrize("content", ["", "[]", '{"ladder": {}}', '{"ladder": 3}', "\x00"])
def test_a_file_that_is_no_baseline_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "b.json").write_text(content)
    result = finetune("estimate", FILE, "--baseline", "b.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "finetune baseline FILE --json" in result.stderr


@pytest.mark.parametrize("volume", ["10M", "135M", "1B", "10B"])
def test_a_road_that_is_closed_is_a_no_at_any_volume(volume: str) -> None:
    answer = estimate("--volume", volume, "--target", "fireworks/llama-3.1-8b")
    assert answer["verdict"]["kind"] == "no_go"
    assert "has accepted no new fine-tuning jobs since 2026-11-15" in answer["verdict"]["headline"]
    assert "crusoe/llama-3.1-8b" in answer["verdict"]["next_step"]
    assert answer["saving_month_usd"] is None


def test_a_missing_price_says_where_it_can_be_found_and_an_old_one_that_it_is_old() -> None:
    unpriced = estimate_text("--current", "gpt-4o", "--volume", "10M", "--target", "nebius/llama-3.1-8b")
    assert "add input, output and training from Nebius (its console, or by asking;" in unpriced
    old = estimate_text("--current", "gpt-4o", "--volume", "10M", "--target", "together/qwen3-8b")
    assert "$3.99 an hour (of 2026-05-08, over half a year old)" in old
    listed = " ".join(finetune("prices", "together/qwen3-8b", "nebius/llama-3.1-8b").stdout.split())
    assert "2026-05-08 (over half a year old)" in listed and "from Nebius (its console" in listed


def test_the_price_list_marks_roads_that_are_closed_and_what_costs_by_the_hour() -> None:
    lines = finetune("prices", "--all").stdout.splitlines()
    fireworks = next(line for line in lines if line.startswith("fireworks/"))
    together = next(line for line in lines if line.startswith("together/"))
    assert fireworks.split()[-2:] == ["closed", "–"]
    # Its tokens are free, its machine is not.
    assert "$3.99 an hour" in together and "free" not in together
    notes = [line for line in lines if line.startswith("•")]
    assert notes[0].startswith("• fireworks (3 models): has taken no new training jobs since 2026-11-15")
    assert any(
        note.startswith("• together (3 models): these prices are over half a year old") for note in notes
    )
    assert any(note.startswith("• nebius (2 models): price unknown") for note in notes)
    ends = [
        line.split()
        for line in finetune("sunsets", "--all").stdout.splitlines()
        if line.startswith("fireworks/")
    ]
    assert ends and all(words[1:4] == ["can't", "be", "trained"] for words in ends)


def test_a_target_that_has_ended_is_no_go() -> None:
    question = ("--volume", "10B", "--target", "gpt-4.1-nano")
    answer, text = estimate(*question), estimate_text("--current", "gpt-4o", *question, "--why")
    assert answer["verdict"]["kind"] == "no_go"
    assert answer["outlook"] is answer["payback_months"] is None
    for words in ("Saves a month", "Pays back within", "Net value over", "What moves"):
        assert words not in text


def test_todays_model_that_has_ended_is_refused_with_its_successor() -> None:
    result = finetune("estimate", FILE, "--current", "o4-mini", "--volume", "10B", "--json")
    assert result.exit_code == 1 and not result.stdout
    assert result.stderr == (
        "o4-mini was shut down on 2026-10-23 and no longer answers. Its maker recommends gpt-5.6-terra instead.\n"
    )


def test_todays_model_saves_only_until_it_ends() -> None:
    question = ("--target", "local/smollm2-135m", "--volume", "10B")
    answer = estimate(*question)
    assert (answer["current_ends"], answer["successor"]) == ("2027-01-14", "gpt-6-luna")
    assert answer["verdict"]["kind"] != "go"
    assert answer["saving_month_usd"] > 26_000 and answer["npv_usd"] < 55_000
    assert any(reason["rule"] == "successor" and reason["weighs"] for reason in answer["verdict"]["reasons"])
    text = estimate_text("--current", "gpt-4o", *question, "--why")
    assert "a month until 2027-01-14" in text
    assert "From 2027-01-14: saves $1," in text
    assert "a month, compared with gpt-6-luna, the successor of gpt-4o" in text


def test_a_missing_price_is_reported_with_the_setting_that_fills_it(tmp_path: Path) -> None:
    answer = estimate("--volume", "10M", "--target", "nebius/llama-3.1-8b")
    assert answer["outlook"] is None
    assert "[providers.nebius.models." in str(answer["verdict"])
    text = estimate_text("--current", "gpt-4o", "--volume", "10M", "--target", "nebius/llama-3.1-8b")
    assert "about $27 a month" in text and "gpt-6-luna, about $1.1" in text, (
        "today's bill is shown all the same"
    )
    assert "unknown: add input, output and training from Nebius" in text

    only_training_is_missing = '[providers.openai.models."new"]\ninput = "1"\noutput = "2"\n'
    (tmp_path / "finetune.toml").write_text(only_training_is_missing)
    cure = 'add training to finetune.toml under [providers.openai.models."new"].'
    prices = finetune("prices").stdout
    assert f"openai/new: price unknown: {cure}" in prices and "your settings" in prices
    assert cure in str(estimate("--volume", "10M", "--target", "openai/new")["verdict"])


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
def test_a_vendors_prices_are_shown_with_their_source_even_if_one_is_missing(
    target: str, prices: str
) -> None:
    text = estimate_text("current=gpt-4o", "volume=10M", f"target={target}", "--why")  # as in Slack
    assert prices in text


def test_a_machine_that_is_paid_by_the_hour_counts_in_what_a_run_costs() -> None:
    assert "of which $2.75 for its machine during measuring" in estimate_text(
        "--target", "crusoe/llama-3.1-8b"
    )


def test_the_judge_of_a_free_run_counts_in_what_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-anything")
    lines = [f"Where is parcel {number}?,It is in hall {number} of our store." for number in range(ROWS)]
    (tmp_path / FILE).write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    question = ("--target", "local/smollm2-135m", "--judge", "openai/gpt-4o", "--volume", "10M")
    answer = estimate(*question)
    text = estimate_text(*question, "--current", "gpt-4o", "--why")
    assert answer["training_usd"] == 0 and answer["evaluation_usd"] == answer["one_off_usd"] > 0.1
    cost = f"${answer['evaluation_usd']:.2f}"
    for line in (f"One-off cost: about {cost}", f"a run costs about {cost}", f"Measuring, one-off: {cost}"):
        assert line in text, line
    assert "only your" not in text


def test_the_one_off_cost_is_shown_even_if_it_never_pays_back() -> None:
    question = ("--volume", "5M", "--target", "gpt-4.1-mini", "--task", "quality", "--hours", "40")
    text = estimate_text("--current", "gpt-4o", *question)
    assert "Pays back: never" in text
    assert "One-off cost: about $3,000, including staff time and labels" in text


def test_a_saving_above_a_quarter_of_an_hours_pay_is_not_called_too_little() -> None:
    text = estimate_text("--current", "gpt-4o", "--volume", "10M", "--target", "gpt-4.1-mini")
    assert "Saves: about $21 a month" in text and "in 48 days" in text, "so $32; a quarter of an hour is $19"
    assert "oo little is at stake" not in text


def test_a_volume_in_requests_is_counted_with_the_rows_tokens() -> None:
    answer = estimate("--volume", "20k requests")
    assert (answer["volume"], answer["monthly_requests"]) == ("20,000 requests", 20_000)
    tokens = answer["monthly_input_tokens"]
    same = estimate("--volume", f"{tokens} tokens")
    assert same["monthly_requests"] == 20_000
    assert same["monthly_before_usd"] == answer["monthly_before_usd"]
    longer = estimate("--volume", "20k requests", "--prompt-tokens", "1500")
    assert longer["monthly_input_tokens"] == 20_000 * 1500
    text = estimate_text("--current", "gpt-4o", "--volume", "20k requests")
    assert "20,000 requests a month (1.62M input tokens)" in text


def test_a_bare_number_as_the_volume_is_asked_back() -> None:
    result = finetune("estimate", FILE, "--current", "gpt-4o", "--volume", "20000")
    assert result.exit_code == 2
    assert "Is it 20,000 requests a month, or 20,000 tokens?" in result.stderr


def test_a_saving_below_a_cent_is_not_called_nothing() -> None:
    text = estimate_text("--current", "gpt-4o", "--volume", "1 token", "--target", "gpt-4.1-mini", "--why")
    assert "Saves: under 1 cent a month" in text and "Saves a month: under 1 cent" in text


@pytest.mark.parametrize("price", ["-1", "1e30", "1e-30", "NaN", "€2.50", "2,50"])
def test_an_impossible_price_stops_an_estimate(tmp_path: Path, price: str) -> None:
    (tmp_path / "finetune.toml").write_text(f'[prices."x"]\ninput = "{price}"\noutput = "2"\n')
    result = finetune("estimate", FILE)
    assert result.exit_code == 2
    assert "should be USD per 1M tokens in quotes" in result.stderr


def test_all_mistakes_in_the_settings_stop_an_estimate(tmp_path: Path) -> None:
    (tmp_path / "finetune.toml").write_text("[people]\nquorum = 0\n[budget]\nmonthly_usd = 2.5\n")
    result = finetune("estimate", FILE)
    assert result.exit_code == 2
    assert result.stderr.count("• finetune.toml, line ") == 2


def test_prices_are_listed_with_their_source() -> None:
    result = finetune("prices")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "openai/gpt-4o-2024-08-06, tuned $3.75 $1.875 $15.00 $25.00 2027-01-14" in lines
    assert "OpenAI's price and deprecation pages, 2026-11-24" in lines[-1]
    assert "nebius" not in result.stdout.lower()
    assert "closed" not in result.stdout
    assert re.search(
        r"^\d+ models that ended or can't be trained any more and \d+ models without a known price: "
        r"finetune prices --all$",
        result.stdout,
        re.MULTILINE,
    )
    full = finetune("prices", "--all").stdout
    assert "price unknown: add input, output and training from Nebius" in full
    assert "to finetune.toml under [providers.nebius.models." in full


def test_prices_of_named_models_show_both_kinds_ends_and_unknown_names() -> None:
    rows = json.loads(finetune("prices", "gpt-4o-mini", "--json").stdout)
    assert [(row["kind"], row["input"], row["training"]) for row in rows] == [
        ("prompted", 0.15, None),
        ("tuned", 0.3, 3.0),
    ]
    text = finetune("prices", "gpt-4o", "o4-mini").stdout
    assert "ends on 2027-01-14, then gpt-6-luna" in text and "ended on 2026-10-23, then gpt-5.6-terra" in text
    by_model = {row["model"]: row for row in json.loads(finetune("prices", "o4-mini", "--json").stdout)}
    assert by_model["o4-mini"]["has_ended"] is True and by_model["o4-mini"]["ends"] == "2026-10-23"

    result = finetune("prices", "gpt-4oo", "gpt-4o")
    assert result.exit_code == 1
    assert "No price is known for “gpt-4oo”. Did you mean gpt-4o" in result.stdout
    assert "\ngpt-4o " in result.stdout and "$2.50" in result.stdout


def test_an_own_machine_is_counted_or_the_reason_why_not_is_given() -> None:
    question = ("--target", "local/smollm2-135m", "--volume", "1000B")
    uncalibrated = estimate(*question)
    assert uncalibrated["machines_needed"] is None
    assert "finetune calibrate" in uncalibrated["machines_reason"]
    assert any(
        reason["rule"] == "machine" and reason["weighs"] for reason in uncalibrated["verdict"]["reasons"]
    )
    (training,) = [row for row in uncalibrated["assumptions"] if row["name"] == "training"]
    assert uncalibrated["training_tokens_estimated"] is True
    assert "Estimated with" in training["why"] and "about" in training["value"], "another tokenizer counted"
    answer = estimate(*question, "--serving-speed", "5000", "--utilisation", "50%")
    assert answer["machines_needed"] > 100
    machines = [reason["text"] for reason in answer["verdict"]["reasons"] if reason["rule"] == "machine"]
    assert any(f"about {answer['machines_needed']:,} machines like yours" in text for text in machines)


def test_a_third_of_doubted_labels_leaves_the_verdict_open(tmp_path: Path) -> None:
    """A classifier alone does not say no; that takes people who check some of the labels."""
    rows, wrong = mislabel(make_texts(6, 100, seed=1, own=0.5), 0.33, seed=1)
    write([(row.prompt[-1].content, row.answer) for row in rows], tmp_path / FILE)
    answer = estimate("--target", "local/smollm2-135m", "--volume", "10B")
    assert answer["verdict"]["kind"] == "unknown"
    (doubt,) = [reason for reason in answer["verdict"]["reasons"] if reason["rule"] == "wrong labels"]
    assert doubt["kind"] == "unknown" and "Nobody has checked them yet" in doubt["text"]
    expected = int(doubt["text"].split()[1])
    assert expected == pytest.approx(len(wrong), rel=0.15)


def test_each_expected_run_costs_its_tokens_and_its_evaluation() -> None:
    single, triple = (
        estimate("--volume", "1B", "--target", "gpt-4.1", "--runs", runs) for runs in ("1", "3")
    )
    assert triple["training_tokens"] == 3 * single["training_tokens"]
    for name in ("training_usd", "evaluation_usd"):
        assert single[name] and triple[name] == pytest.approx(3 * single[name])
    assert triple["one_off_usd"] == pytest.approx(3 * single["one_off_usd"])


def test_options_can_be_typed_as_in_slack_and_a_value_may_contain_an_equals_sign() -> None:
    in_slack = finetune_json("estimate", FILE, "current=gpt-4o", "volume=10M", "lora_r=8")
    assert in_slack == estimate("--volume", "10M", "--lora-r", "8")
    assert "unexpected extra argument (volum=10M)" in finetune("estimate", FILE, "volum=10M").output
    assert "no column 'label=text'" in finetune("check", FILE, "--text", "label=text").output


def test_a_bare_number_is_asked_back_with_two_commands_to_copy() -> None:
    result = finetune("estimate", FILE, "--current", "gpt-4o", "volume=20000")
    assert result.exit_code == 2
    for reading in ("20000requests", "20000tokens"):
        assert f"  finetune estimate {FILE} --current gpt-4o volume={reading}\n" in result.stderr


def test_a_machine_by_the_hour_is_compared_with_the_same_model_by_the_token() -> None:
    words = ("--current", "gpt-4o", "--volume", "100M")
    by_hour = estimate_text(*words, "--target", "together/llama-3.1-8b")
    assert "Served by the token: about $" in by_hour and "serve=coreweave" in by_hour
    assert "Served by the token" not in estimate_text(*words, "--target", "together/qwen3-8b"), "not its base"
    refused = finetune("estimate", FILE, *words, "--target", "local/smollm2-135m", "--serve", "coreweave")
    assert refused.exit_code == 2 and "not of smollm2-135m" in refused.output
