"""Reads what `/metrics` says with Prometheus' own parser, and looks for what `promtool check metrics` complains of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[1]
# promtool's lists, shortened to the units that could occur here
OTHER_UNITS = {
    "milliseconds",
    "microseconds",
    "minutes",
    "hours",
    "days",
    "kilobytes",
    "megabytes",
    "percent",
}
ABBREVIATIONS = {"s", "ms", "us", "ns", "sec", "min", "h", "d", "b", "kb", "mb", "gb"}
TYPES = {"counter", "gauge", "histogram", "summary"}
OF_HISTOGRAMS = ("_bucket", "_sum", "_count")


def read_families(text: str) -> dict[str, Metric]:
    """Returns the families by their name in the text, where a counter's ends in `_total`."""
    families = {}
    for family in text_string_to_metric_families(text):
        suffix = "_total" if family.type == "counter" else ""
        families[family.name + suffix] = family
    return families


def read_values(text: str) -> dict[tuple[str, ...], float]:
    """Returns the samples by name and the values of their labels, in the order of the labels' names."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def listed_metrics(process: str) -> set[str]:
    """Returns the metrics that docs/operations.md lists for the "bot", the "trainer" or the "door"."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(finetune_\w+)[`{]", page, re.MULTILINE))
    others = {"trainer": "finetune_trainer_", "door": "finetune_door_"}
    if process in others:
        return {name for name in listed if name.startswith(others[process])}
    return {name for name in listed if not name.startswith(tuple(others.values()))}


def complaints(text: str) -> list[str]:
    return [
        f"{name}: {fault}"
        for name, family in read_families(text).items()
        for fault in _faults(name, family, text)
    ]


def _faults(name: str, family: Metric, text: str) -> Iterator[str]:
    words = set(name.split("_"))
    if not family.documentation or f"# HELP {name} " not in text:
        yield "no help"
    if f"# TYPE {name} {family.type}\n" not in text or family.type not in TYPES:
        yield "no type"
    if name.endswith("_total") and family.type != "counter":
        yield "only counters end in _total"
    if name.endswith(OF_HISTOGRAMS):
        yield "reserved for histograms"
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        yield "not in snake_case"
    if words & (OTHER_UNITS | ABBREVIATIONS):
        yield "not a base unit, or abbreviated"
    if words & TYPES:
        yield "its type is in its name"
    if family.type != "histogram" and any("le" in sample.labels for sample in family.samples):
        yield "has the label of a histogram"
