"""Advice in the words of a terminal: Slack's commands and options as ours. Slack reads the same advice as it is."""

from __future__ import annotations

import re
from typing import Any

from bot.decisions.verdict.advice import Verdict

_BASELINE = re.compile(r"`/finetune baseline \S+?(?: rungs=(?P<rungs>\S+?))?(?: models=(?P<models>\S+?))?`")
_IN_SLACK = re.compile(r"`(/finetune [^`]+)`")
_OPTION = re.compile(r"\b(volume|current|target|hours|bar|task|prompt)=(?!\.?\w)")


def spoken(text: str) -> str:
    """`/finetune baseline tickets rungs=zero models=a` is finetune baseline FILE --rungs zero --model a."""
    text = (
        _BASELINE.sub(_baseline, text)
        .replace("with models=.", "with --model.")
        .replace(" as models=", " as --model")
    )
    return _OPTION.sub(r"--\1", _IN_SLACK.sub(r"\1 in Slack", text)).replace("`", "")


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A reason that does not weigh is said and decides nothing."""
    return {
        "kind": verdict.kind,
        "headline": spoken(verdict.headline),
        "reasons": [
            {"rule": one.rule, "kind": one.kind, "weighs": one.weighs, "text": spoken(one.text)}
            for one in verdict.reasons
        ],
        "next_step": spoken(verdict.next_step),
    }


def _baseline(found: re.Match[str]) -> str:
    words = ["finetune baseline FILE"]
    words += [f"--rungs {found['rungs']}"] if found["rungs"] else []
    words += [f"--model {model}" for model in (found["models"] or "").split(",") if model]
    return " ".join(words)
