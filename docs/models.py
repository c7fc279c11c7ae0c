"""Write trainers/models.toml from what others publish: `python docs/models.py LITELLM.whl`, with the wheel as
`pip download --no-deps litellm==1.110.2` leaves it. Its JSON is read, nothing of it is installed or run.

A row with a `source` of its own was written by hand and stays as it is. Prices are written only of models that the
library genai-prices lacks; of a training there are none: those stand in providers.toml, which is never touched. Exits
with 1, and says which, where a model that we name is missing or a successor ends before the model that it succeeds.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainers.model_list import RELEASE_SUFFIX, ListedModel, read_list  # noqa: E402  the checkout's own package
from trainers.pricing import PriceRow, library_price  # noqa: E402
from trainers.providers import load_providers  # noqa: E402

LIST = ROOT / "trainers" / "models.toml"
JSON_FILE = "litellm/model_prices_and_context_window_backup.json"
# Sellers as litellm calls them, as genai-prices and our rows do, and whose pages are read.
SELLERS = {
    "openai": ("openai", "OpenAI's pages"),
    "anthropic": ("anthropic", "Anthropic's pages"),
    "gemini": ("google", "Google's pages"),
    "groq": ("groq", "Groq's pages"),
    "mistral": ("mistral", "Mistral's pages"),
    "deepseek": ("deepseek", "DeepSeek's pages"),
    "moonshot": ("moonshotai", "Moonshot's pages"),
    "xai": ("x-ai", "xAI's pages"),
}
# Of the others only models that end are written: for them we ship no row.
ASKED_HERE = ("openai", "anthropic", "google", "groq")
# Not for plain text, or not for everybody.
OTHER = re.compile(
    "audio|image|search|realtime|tts|transcri|robotics|omni|lyria|research|codex|cyber|computer|daybreak|"
    "rosalind|law|ocr|vision|guard|exp-|experimental|customtools|gemma-2|mythos|leanstral"
)
HEAD = """\
# What published lists say of models that are prompted, written by `python docs/models.py LITELLM.whl`.
#
#   ends          the first day on which it no longer answers; without it none is announced
#   successor     what its maker names instead
#   takes_none    it can be asked not to think first (reasoning_effort "none"); thinks: it always does
#   input, …      USD per 1M tokens, where genai-prices has no price
#
# A row with a source and an as_of of its own was written by hand and is kept. Sections and names are those of the
# price list (genai-prices). A release that isn't listed (gpt-4o-2024-11-20) ends with its model (gpt-4o). A model that
# a row of providers.toml tunes ends on that row's day, what a provider answers (GET /v1/models) comes before both, and
# your own `ends` and `successor` in finetune.toml, under [prices."MODEL"], before all.
"""


def main(wheel: Path, path: Path = LIST, as_of: date | None = None) -> list[str]:
    """Writes the list; returns what is wrong with it, in sentences."""
    day = as_of or datetime.now(UTC).date()
    version = wheel.name.split("-")[1]
    with zipfile.ZipFile(wheel) as archive:
        rows = json.loads(archive.read(JSON_FILE), parse_float=Decimal)
    by_hand = _by_hand(path)
    chosen = _chosen(rows)
    sections = [
        _section(seller, f"{pages}, as litellm {version} has them", day, chosen, by_hand.get(seller, {}))
        for seller, pages in SELLERS.values()
    ]
    text = "\n".join([HEAD, *sections])
    path.write_text(text, encoding="utf-8")
    return list(_holes(read_list(text), day))


def _chosen(rows: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """By seller and name."""
    texts = {}
    for full_name, row in rows.items():
        seller, _ = SELLERS.get(row.get("litellm_provider"), (None, ""))
        name = _bare(full_name)
        is_chat = row.get("mode") in ("chat", "responses") and row.get("input_cost_per_token") is not None
        if seller and is_chat and not full_name.startswith("ft:") and not OTHER.search(name):
            texts[seller, name] = row
    facts = {key: _facts(key[0], row) for key, row in texts.items()}
    successors = {(seller, fact["successor"]) for (seller, _), fact in facts.items() if "successor" in fact}
    return {
        key: {**fact, **_prices(*key, texts[key])}
        for key, fact in sorted(facts.items())
        if ("ends" in fact or key in successors or key[0] in ASKED_HERE)
        and not _is_found_by_its_model(key, facts)
    }


def _is_found_by_its_model(key: tuple[str, str], facts: Mapping[tuple[str, str], dict[str, Any]]) -> bool:
    seller, name = key
    model = (seller, RELEASE_SUFFIX.sub("", name))
    return model != key and facts.get(model) == facts[key]


def _bare(full_name: str) -> str:
    seller, slash, name = full_name.partition("/")
    return name.lower() if slash and seller in SELLERS else full_name.lower()


def _facts(seller: str, row: Mapping[str, Any]) -> dict[str, Any]:
    none = bool(row.get("supports_none_reasoning_effort"))
    # Anthropic's think where they are asked to; OpenAI's are told by their names (chat_parameters.py).
    thinks = row.get("thinking_on_by_default") if seller == "anthropic" else row.get("supports_reasoning")
    facts: dict[str, Any] = {}
    if end := row.get("deprecation_date"):
        facts["ends"] = date.fromisoformat(end)
    if successor := row.get("successor_model"):
        facts["successor"] = _bare(successor)
    if none:
        facts["takes_none"] = True
    elif thinks and seller != "openai":
        facts["thinks"] = True
    return facts


def _prices(seller: str, name: str, row: Mapping[str, Any]) -> dict[str, str]:
    if isinstance(library_price(f"{seller}/{name}", datetime.now(UTC).date()), PriceRow):
        return {}
    keys = {
        "input": "input_cost_per_token",
        "cached_input": "cache_read_input_token_cost",
        "output": "output_cost_per_token",
    }
    if not row["input_cost_per_token"]:
        return {}  # of a free tier, and no price
    return {
        key: f"{(Decimal(row[theirs]) * 1_000_000).normalize():f}"
        for key, theirs in keys.items()
        if row.get(theirs) is not None
    }


def _by_hand(path: Path) -> Mapping[str, Mapping[str, dict[str, Any]]]:
    sections = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        seller: {name: row for name, row in section["models"].items() if "source" in row}
        for seller, section in sections.items()
    }


def _section(
    seller: str,
    source: str,
    day: date,
    chosen: Mapping[tuple[str, str], dict[str, Any]],
    by_hand: Mapping[str, dict[str, Any]],
) -> str:
    rows = {**{name: row for (each, name), row in chosen.items() if each == seller}, **by_hand}
    lines = [f"{json.dumps(name)} = {_inline(row)}" for name, row in sorted(rows.items())]
    return "\n".join([f'[{seller}]\nsource = "{source}"\nas_of = {day}\n', f"[{seller}.models]", *lines, ""])


def _inline(row: Mapping[str, Any]) -> str:
    values = ", ".join(f"{key} = {_value(value)}" for key, value in row.items())
    return f"{{ {values} }}" if values else "{}"


def _value(value: object) -> str:
    return str(value) if isinstance(value, date) else json.dumps(value)


def _holes(models: Mapping[str, Mapping[str, ListedModel]], day: date) -> Iterator[str]:
    for row in load_providers():
        for model in row.models:
            name = (model.base_name or model.name).lower()
            if row.name in models and name not in models[row.name]:
                yield f"{row.name}/{name}, which providers.toml tunes, is in none of the lists: its end is not known."
    for seller, listed in models.items():
        for model in listed.values():
            successor = listed.get(model.successor or "")
            if model.successor and successor is None:
                yield f"{seller}/{model.name}: its successor {model.successor} is in none of the lists."
            elif successor and successor.has_ended(day) and not model.has_ended(day):
                yield f"{seller}/{model.name}: its successor {successor.name} has ended on {successor.ends}."


if __name__ == "__main__":
    problems = main(Path(sys.argv[1]))
    print("\n".join(problems) or f"{LIST.relative_to(ROOT)} is written.")
    sys.exit(1 if problems else 0)
