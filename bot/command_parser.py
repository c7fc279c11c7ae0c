"""Slack text → a command, or an answer that says what was meant. Pure; knows neither Slack nor the store."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from bot.command_options import (
    OPTIONS,
    USAGE,
    Answer,
    Options,
    dataset_name,
    did_you_mean,
    first_word,
    measurement_number,
    read_bar,
    read_day,
    read_figures,
    read_options,
    read_predict,
    read_rungs,
    read_task,
    run_number,
    shown,
    split_prompt,
    split_reason,
    typed_name,
)
from bot.commands import (
    AskBaseline,
    AskEstimate,
    Audit,
    Baseline,
    Budget,
    Cancel,
    CancelMeasurement,
    Command,
    Curve,
    Datasets,
    Delete,
    Estimate,
    Freeze,
    Help,
    Knowledge,
    Models,
    Pause,
    Prices,
    Promote,
    Results,
    Resume,
    Rollback,
    Runs,
    ShowMeasurement,
    Start,
    Status,
    Try,
    Unfreeze,
    Upload,
)

__all__ = ["Answer", "Command", "dataset_name", "measurement_number", "parse", "run_number", "unescaped"]

LONGEST_REASON = 500
MARKUP = re.compile(r"<(?P<kind>[@#!]?)(?P<target>[^<>|]+)(?:\|(?P<label>[^<>]*))?>")


def unescaped(text: str) -> str:
    """What the person typed: Slack makes `&amp;`, `<http://acme.com|acme.com>`, `<@U1|ben>`, `<#C1|general>` of it."""
    text = MARKUP.sub(_typed, text)
    # The ampersand comes last, or "&amp;lt;" would become "<".
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _typed(markup: re.Match[str]) -> str:
    kind, target, label = markup.group("kind", "target", "label")
    return f"{kind}{label or target}" if kind in ("@", "#") else label or target


def parse(text: str) -> Command | Answer:
    """What stands after `/finetune`."""
    word, rest = first_word(text)
    word = word.lower()
    if not word:
        return Help()
    parser = _PARSERS.get(word)
    if parser is None:
        return Answer(f"I don't know `{shown(word)}`.{did_you_mean(word, USAGE)} `/finetune help` lists all.")
    return parser(rest)


def _parse_estimate(rest: str) -> Command | Answer:
    if not rest:
        return AskEstimate()
    read = _options("estimate", rest)
    if isinstance(read, Answer):
        return read
    figures, bar, task = read_figures(read), read_bar(read.text("bar")), read_task(read.text("task"))
    if isinstance(figures, Answer):
        return figures
    if isinstance(bar, Answer):
        return bar
    if isinstance(task, Answer):
        return task
    said = read.text("current"), read.volume, read.text("target")
    return Estimate(read.dataset, *said, figures, bar, task)


def _parse_start(rest: str) -> Command | Answer:
    before, because = split_reason(rest)
    read = _options("start", before)
    if isinstance(read, Answer):
        return read
    patience = read.text("patience")
    if patience is not None and not (re.fullmatch(r"[0-9]{1,2}", patience) and 1 <= int(patience) <= 20):
        return Answer(
            f"`patience={shown(patience)}` should be a whole number from 1 to 20, like `patience=2`: the training "
            "stops after so many validations without improvement."
        )
    figures = read_figures(read)
    if isinstance(figures, Answer):
        return figures
    said = read.text("current"), read.volume, read.text("target")
    return Start(read.dataset, *said, figures, int(patience) if patience else None, _reason(because))


def _parse_status(rest: str) -> Command | Answer:
    if not rest:
        return Status(None)
    measurement = measurement_number(rest)
    if measurement is not None:
        return ShowMeasurement(measurement)
    number = run_number(rest)
    return _needs_run("status", rest) if number is None else Status(number)


def _parse_cancel(rest: str) -> Command | Answer:
    measurement = measurement_number(rest)
    if measurement is not None:
        return CancelMeasurement(measurement)
    number = run_number(rest)
    return _needs_run("cancel", rest) if number is None else Cancel(number)


def _parse_pause(rest: str) -> Command | Answer:
    number = run_number(rest)
    return _needs_run("pause", rest) if number is None else Pause(number)


def _parse_resume(rest: str) -> Command | Answer:
    number = run_number(rest)
    return _needs_run("resume", rest) if number is None else Resume(number)


def _parse_results(rest: str) -> Command | Answer:
    measurement = measurement_number(rest)
    if measurement is not None:
        return ShowMeasurement(measurement)
    number = run_number(rest)
    return _needs_run("results", rest) if number is None else Results(number)


def _parse_audit(rest: str) -> Command | Answer:
    number = run_number(rest)
    return _needs_run("audit", rest) if number is None else Audit(number)


def _parse_try(rest: str) -> Command | Answer:
    model, text = first_word(rest)
    if not text:
        return Answer(f"Which model, and what should it answer? Like this: `{USAGE['try']}`.")
    return Try(model, text)


def _parse_promote(rest: str) -> Command | Answer:
    before, because = split_reason(rest)
    model, more = first_word(before)
    if not model or more:
        return Answer(_which("model", "/finetune models", model, more, "promote"))
    return _with_reason(because, "promote") or Promote(model, _reason(because))


def _parse_rollback(rest: str) -> Command | Answer:
    before, because = split_reason(rest)
    dataset, more = first_word(before)
    if not dataset or more:
        return Answer(_which("dataset", "/finetune datasets", dataset, more, "rollback"))
    return _with_reason(because, "rollback") or Rollback(typed_name(dataset), _reason(because))


def _parse_baseline(rest: str) -> Command | Answer:
    if not rest:
        return AskBaseline()
    before, prompt = split_prompt(rest)
    before, because = split_reason(before)
    read = _options("baseline", before)
    if isinstance(read, Answer):
        return read
    if prompt == "":
        return Answer(f"`prompt=` is empty. Like this: `{USAGE['baseline']} prompt=Sort this message.`")
    bar = read_bar(read.text("bar"))
    rungs = read_rungs(read.text("rungs"))
    task = read_task(read.text("task"))
    for misread in (bar, rungs, task):
        if isinstance(misread, Answer):
            return misread
    models = tuple(dict.fromkeys(one for one in (read.text("models") or "").split(",") if one))
    # the three were no Answer, as the loop has seen, which a type checker does not
    said = models, rungs, prompt, bar, task, read.text("judge")
    return Baseline(read.dataset, *said, _reason(because))  # type: ignore[arg-type]


def _parse_curve(rest: str) -> Command | Answer:
    before, because = split_reason(rest)
    read = _options("curve", before)
    if isinstance(read, Answer):
        return read
    predict, figures = read_predict(read.text("predict")), read_figures(read)
    if isinstance(predict, Answer):
        return predict
    if isinstance(figures, Answer):
        return figures
    return Curve(read.dataset, read.text("target"), predict, figures.label_usd, _reason(because))


def _parse_delete(rest: str) -> Command | Answer:
    read = _options("delete", rest)
    if isinstance(read, Answer):
        return read
    before = read_day(read.text("before"))
    return before if isinstance(before, Answer) else Delete(read.dataset, before)


def _parse_knowledge(rest: str) -> Command | Answer:
    read = _options("knowledge", rest)
    return read if isinstance(read, Answer) else Knowledge(read.dataset)


def _parse_prices(rest: str) -> Command:
    return Prices(tuple(dict.fromkeys(re.split(r"[\s,]+", rest)))[:20] if rest else ())


def _alone(word: str, command: Command) -> Callable[[str], Command | Answer]:
    """A command that takes nothing: what follows it was meant for something, so it is not passed over."""

    def read(rest: str) -> Command | Answer:
        if not rest:
            return command
        return Answer(f"`{word}` takes nothing more, and I read `{shown(rest)}` after it. {_INSTEAD[word]}")

    return read


_INSTEAD: Mapping[str, str] = {
    "upload": "The form asks for the file and its name.",
    "datasets": "`/finetune estimate DATASET` and `/finetune baseline DATASET` are about a single dataset.",
    "runs": "`/finetune status RUN` is about a single run.",
    "budget": "It shows the budgets of all channels that you are in.",
    "unfreeze": "Two approvers type it alone.",
    "models": "`/finetune try MODEL TEXT` asks a single model.",
}


def _parse_help(rest: str) -> Command | Answer:
    word = rest.lower()
    return Answer(f"Like this: `{USAGE[word]}`.") if word in USAGE else Help()


_PARSERS: Mapping[str, Callable[[str], Command | Answer]] = {
    "help": _parse_help,
    "upload": _alone("upload", Upload()),
    "datasets": _alone("datasets", Datasets()),
    "runs": _alone("runs", Runs()),
    "baseline": _parse_baseline,
    "curve": _parse_curve,
    "knowledge": _parse_knowledge,
    "prices": _parse_prices,
    "estimate": _parse_estimate,
    "start": _parse_start,
    "status": _parse_status,
    "pause": _parse_pause,
    "resume": _parse_resume,
    "cancel": _parse_cancel,
    "results": _parse_results,
    "budget": _alone("budget", Budget()),
    "freeze": lambda rest: Freeze(rest[:LONGEST_REASON]),
    "unfreeze": _alone("unfreeze", Unfreeze()),
    "audit": _parse_audit,
    "models": _alone("models", Models()),
    "try": _parse_try,
    "promote": _parse_promote,
    "rollback": _parse_rollback,
    "delete": _parse_delete,
}


def _options(command: str, rest: str) -> Options | Answer:
    return read_options(command, rest, OPTIONS.get(command, ()), USAGE[command])


def _reason(text: str | None) -> str | None:
    return text[:LONGEST_REASON] if text else text


def _with_reason(because: str | None, command: str) -> Answer | None:
    return Answer(f"`because=` is empty. Like this: `{USAGE[command]}`.") if because == "" else None


def _which(what: str, lists: str, read: str, more: str, command: str) -> str:
    if not read:
        return f"Which {what}? `{lists}` lists them. Like this: `{USAGE[command]}`."
    return (
        f"I read `{shown(read)}` as the {what} and don't know what to do with `{shown(more)}`. Like this: "
        f"`{USAGE[command]}`."
    )


def _needs_run(command: str, rest: str) -> Answer:
    which = f"`{shown(rest)}` is not the number of a run." if rest else "Which run?"
    return Answer(
        f"{which} `/finetune runs` lists them. Like this: `{USAGE[command]}`, with RUN a number like 7."
    )
