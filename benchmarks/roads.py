"""Compares roads for a model of 8 billion parameters: Llama 3.1 8B, trained on a GPU rented by the minute and served
by the token, or trained at a vendor and served on its machine by the hour; and Qwen3-8B, trained and served by the
token. `python benchmarks/roads.py`

The prices are those of trainers/providers.toml, each with its date; only the rented GPU's is named here, since it is
otherwise asked when a plan is made. Nothing is trained and nobody is asked.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bot.rules.estimate_inputs import Question
from bot.rules.estimates import EstimateResult
from bot.rules.units import Misread, parse_volume
from bot.services.common.targets import with_rental
from bot.services.datasets.dataset_worker import SEED
from bot.services.decisions.estimates import make_estimate
from bot.settings import Settings, load_settings
from bot.values.runs import Refusal
from trainers.dataset import Columns, Report, check_file
from trainers.rentals.prices import Rental

TICKETS = Path(__file__).resolve().parent.parent / "examples" / "support_tickets.csv"
VOLUMES = ("10M", "1B", "10B")
MINUTES = 120
IMAGE = f"docker.io/acme/finetune@sha256:{64 * '0'}"  # never pulled
SETTINGS = f"""
data = "data"
[trainer.models]
"llama-3.1-8b" = "meta-llama/Llama-3.1-8B-Instruct"
"qwen3-8b" = "Qwen/Qwen3-8B"
[hf]
hardware = "a100-large"
image = "{IMAGE}"
"""


@dataclass(frozen=True)
class Road:
    title: str
    target: str
    serve: str | None = None


ROADS = (
    Road("hf + coreweave, by the token", "hf/llama-3.1-8b", "coreweave"),
    Road("tinker, trained and served there", "tinker/qwen3-8b", "tinker-inference"),
    Road("together, machine by the hour", "together/llama-3.1-8b"),
    Road("crusoe, machine by the hour", "crusoe/llama-3.1-8b"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=TICKETS)
    parser.add_argument("--current", default="gpt-4o", help="today's model")
    parser.add_argument("--usd-per-hour", type=Decimal, default=Decimal("2.50"), help="of the rented GPU")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        settings = _settings(folder, options.usd_per_hour)
        report = check_file(options.data, options.data.name, Columns(None, None), folder, SEED)
        _print(settings, report, options.current)


def _settings(folder: Path, usd_per_hour: Decimal) -> Settings:
    config = folder / "finetune.toml"
    config.write_text(SETTINGS, encoding="utf-8")
    settings = load_settings({"HF_TOKEN": "none", "TINKER_API_KEY": "none"}, config, need_slack=False)
    rental = Rental("a100-large", usd_per_hour / 60, MINUTES, "A100", "80 GB")
    return with_rental(settings, rental)


def _print(settings: Settings, report: Report, current: str) -> None:
    print(f"{report.rows} rows; today {current}; USD a month, at input tokens a month")
    print(f"{'road':34} {'tokens':>7} {'today':>10} {'tuned':>10} {'machines':>9} {'once':>7}  verdict")
    for road in ROADS:
        for volume in VOLUMES:
            result = _estimate(settings, report, current, road, volume)
            if isinstance(result, Refusal):
                print(f"{road.title:34} {volume:>7} {result.text}")
            else:
                _print_line(road, volume, result)


def _print_line(road: Road, volume: str, result: EstimateResult) -> None:
    estimate = result.estimate
    if estimate is None:
        print(f"{road.title:34} {volume:>7} a price is missing")
        return
    today = estimate.monthly_before.total
    tuned = estimate.monthly_after.total
    machines = estimate.machines or ""
    once = estimate.one_off_usd
    verdict = f"{result.verdict.kind} ({result.verdict.rule})"
    line = f"{road.title:34} {volume:>7} {today:>10,.2f} {tuned:>10,.2f} {machines:>9} {once:>7,.2f}"
    print(f"{line}  {verdict}")


def _estimate(
    settings: Settings, report: Report, current: str, road: Road, tokens: str
) -> EstimateResult | Refusal:
    volume = parse_volume(tokens)
    if isinstance(volume, Misread):
        raise SystemExit(volume.sentence)
    question = Question(current=current, volume=volume, target=road.target, serve=road.serve)
    return make_estimate(settings, "tickets", report, question, datetime.now(UTC).date())


if __name__ == "__main__":
    main()
