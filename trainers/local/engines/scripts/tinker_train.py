"""Runs in Tinker's environment: `python train.py config.json` trains LoRA at Tinker on tokenized rows.

Prints a line of JSON for everything that the driver has to know, by its `kind`: resumed, step, saved, unpaid, result,
refused, left. Continues from the newest state that the job has at Tinker. Imports nothing of this project.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import tinker
from tinker.lib import internal_client_holder
from tinker.lib.public_interfaces.training_client import fetch_training_info
from tinker_runs import JOB, forget, newest_state, runs_of

IGNORED = -100
OUTPUT = Path("output")
STEPS = OUTPUT / "steps.jsonl"  # a line for each step sent, and one for each step's loss
BEGAN = OUTPUT / "began"  # written before anything is trained
RESULT = OUTPUT / "result.json"  # written once the adapter is complete
DOWNLOAD_TIMEOUT_S = 60
BETAS = (0.9, 0.999)
EPSILON = 1e-8
# The package's function that logs, about once a minute, that it waits until the account has credit again.
WAITS_FOR_CREDIT = internal_client_holder.InternalClientHolder._should_pause_on_billing.__name__
LASTING = (tinker.BadRequestError, tinker.UnprocessableEntityError)
# Once it trains, these only say that the run has ended, and another attempt begins with a new one.
AT_THE_START = (*LASTING, tinker.AuthenticationError, tinker.PermissionDeniedError, tinker.NotFoundError)


class CreditWatch(logging.Handler):
    """Tells the driver when the package waits for credit."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.funcName == WAITS_FOR_CREDIT:
            tell("unpaid")


def main(config: dict[str, Any]) -> None:
    OUTPUT.mkdir(exist_ok=True)
    internal_client_holder.logger.addHandler(CreditWatch())
    with refusals_told(AT_THE_START):
        rest = tinker.RestClient()
    if not RESULT.exists():
        train(config, rest)
    tell("result", sent=tokens_sent())
    try:
        forget(rest, config["job"], keeps_state=config["keeps_state"])
    except tinker.TinkerError as error:
        tell("left", message=first_line(error))


def train(config: dict[str, Any], rest: tinker.RestClient) -> None:
    with refusals_told(AT_THE_START):
        check_base(config["base"], rest)
    cut_partial_line(STEPS)
    service = tinker.ServiceClient(user_metadata={JOB: config["job"]})
    with refusals_told(AT_THE_START):
        client, done = open_client(config, service, rest)
    tell("resumed", step=done, sent=tokens_sent())
    repeat_lines(config["logged"], done)
    rows = read_lines(Path(config["rows"]))
    steps = read_lines(Path(config["steps"]))
    for number in range(done + 1, len(steps) + 1):
        with refusals_told(LASTING):
            train_step(client, config, number, steps[number - 1], rows)
        is_last = number == len(steps)
        if is_last or number % config["save_steps"] == 0:
            save_state(client, config, number, expires=not (is_last and config["keeps_state"]))
    export(client, config, rest)


def check_base(base: str, rest: tinker.RestClient) -> None:
    """Refuses a base that Tinker doesn't train. A model without a word about it is left to the create."""
    models = rest.get_server_capabilities().result().supported_models
    trainable = sorted(
        model.model_name for model in models if model.model_name and model.trainable is not False
    )
    if base not in trainable:
        refuse("model", f"Tinker doesn't train {base}. It trains {', '.join(trainable)}.")


def open_client(
    config: dict[str, Any], service: tinker.ServiceClient, rest: tinker.RestClient
) -> tuple[Any, int]:
    """Returns a client and the number of trained steps that it goes on from."""
    mine = {JOB: config["job"]}
    runs = runs_of(rest, config["job"])
    state = newest_state(rest, runs)
    if state is not None:
        step, path = state
        remember_state(step, path)
        loading = service.create_training_client_from_state_with_optimizer(path, user_metadata=mine)
        return loading.result(), step
    if runs and not BEGAN.exists():
        # The answer to an earlier create was lost. Nothing has been trained in that run, so it is as good as a new one,
        # unless Tinker has ended it with its session.
        try:
            return adopt(config, service, runs[0].training_run_id), 0
        except (tinker.APIStatusError, tinker.RequestFailedError) as error:
            print(
                f"The run {runs[0].training_run_id} can't be used any more: {first_line(error)}", flush=True
            )
    creating = service.create_lora_training_client(
        config["base"],
        rank=config["rank"],
        seed=config["seed"],
        train_unembed=False,
        user_metadata=mine,
    )
    return creating.result(), 0


def adopt(config: dict[str, Any], service: tinker.ServiceClient, run: str) -> tinker.TrainingClient:
    """Returns a client for a run of an earlier session, which the package offers for saved states only.

    Saves a state to see whether the run still takes requests.
    """
    holder = service.holder
    info = holder.run_coroutine_threadsafe(fetch_training_info(holder, run)).result()
    client = tinker.TrainingClient(holder, holder.get_training_client_id(), run, info=info)
    save_state(client, config, 0)
    return client


def repeat_lines(logged: int, done: int) -> None:
    """Prints the steps again that the driver has not read, since it was killed meanwhile."""
    losses = {line["step"]: line for line in read_lines(STEPS) if "loss" in line}
    for number in range(logged + 1, done + 1):
        if number in losses:
            tell("step", **losses[number])


def train_step(
    client: tinker.TrainingClient,
    config: dict[str, Any],
    number: int,
    step: dict[str, Any],
    rows: list[dict[str, Any]],
) -> None:
    """Trains one step. The loss is the mean over the learnt tokens of the step, as in our own loop."""
    chosen = [rows[place] for place in step["rows"]]
    learnt = sum(map(count_learnt, chosen))
    data = [datum(row, 1 / max(learnt, 1)) for row in chosen]
    tokens = sum(len(row["input_ids"]) - 1 for row in chosen)
    BEGAN.touch()
    note({"step": number, "tokens": tokens})
    # The optimizer's step is sent before the gradients are there, which saves a round trip.
    backward = client.forward_backward(data, "cross_entropy")
    update = client.optim_step(optimizer(config, step["rate"]))
    outputs = backward.result().loss_fn_outputs
    update.result()
    line = {
        "step": number,
        "loss": summed_loss(data, outputs),
        "rate": step["rate"],
        "sent": tokens_sent(),
    }
    note(line)
    tell("step", **line)


def optimizer(config: dict[str, Any], rate: float) -> tinker.AdamParams:
    return tinker.AdamParams(
        learning_rate=rate,
        beta1=BETAS[0],
        beta2=BETAS[1],
        eps=EPSILON,
        weight_decay=config["weight_decay"],
        grad_clip_norm=config["max_norm"],
    )


def count_learnt(row: dict[str, Any]) -> int:
    """Returns how many tokens of a row are learnt. The first is predicted by none."""
    predicted = row["labels"][1:]
    return sum(label != IGNORED for label in predicted)


def summed_loss(data: list[tinker.Datum], outputs: list[dict[str, Any]]) -> float:
    loss = 0.0
    for sent, output in zip(data, outputs, strict=True):
        weights = sent.loss_fn_inputs["weights"].to_numpy()
        logprobs = output["logprobs"].to_numpy()
        loss -= float(logprobs @ weights)
    return loss


def datum(row: dict[str, Any], weight: float) -> tinker.Datum:
    ids = row["input_ids"]
    weights = []
    for label in row["labels"][1:]:
        if label == IGNORED:
            weights.append(0.0)
        else:
            weights.append(weight)
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(ids[:-1]),
        loss_fn_inputs={"target_tokens": ids[1:], "weights": weights},
    )


def save_state(
    client: tinker.TrainingClient, config: dict[str, Any], number: int, *, expires: bool = True
) -> None:
    lifetime_s = None
    if expires:
        lifetime_s = config["ttl_seconds"]
    saving = client.save_state(
        f"step-{number:06}",
        ttl_seconds=lifetime_s,
        user_metadata={JOB: config["job"]},
    )
    remember_state(number, saving.result().path)
    tell("saved", step=number)


def remember_state(step: int, path: str) -> None:
    """Writes the state's path into output/checkpoint-N/, where people look for it."""
    folder = OUTPUT / f"checkpoint-{step}"
    folder.mkdir(exist_ok=True)
    write_json(folder / "state.json", {"step": step, "path": path})


def export(client: tinker.TrainingClient, config: dict[str, Any], rest: tinker.RestClient) -> None:
    """Downloads the adapter in peft's layout."""
    path = client.save_weights_external("result", ttl_seconds=config["ttl_seconds"]).result().path
    urls = rest.get_external_weights_urls(path).result().urls
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if name not in urls:
            refuse("engine", f"Tinker's export has no {name}; it has {', '.join(sorted(urls))}.")
        partial = OUTPUT / f"{name}.part"
        with (
            httpx.stream("GET", urls[name], timeout=DOWNLOAD_TIMEOUT_S) as answer,
            partial.open("wb") as file,
        ):
            answer.raise_for_status()
            for chunk in answer.iter_bytes():
                file.write(chunk)
        partial.replace(OUTPUT / name)
    write_json(RESULT, {"path": path})


def tokens_sent() -> int:
    """Returns the tokens of all steps that were sent, also of those that a kill lost: they are billed."""
    return sum(line["tokens"] for line in read_lines(STEPS) if "tokens" in line)


def note(line: dict[str, Any]) -> None:
    with STEPS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def cut_partial_line(path: Path) -> None:
    """Removes a last line that a kill cut off."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)


def write_json(path: Path, value: object) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)


def tell(kind: str, **facts: object) -> None:
    print(json.dumps({"kind": kind, **facts}), flush=True)


@contextmanager
def refusals_told(kinds: tuple[type[Exception], ...]) -> Iterator[None]:
    """Ends the process with a sentence if Tinker refuses in one of these ways, since another attempt would fail too."""
    try:
        yield
    except kinds as error:
        refuse("engine", f"Tinker refused the job: {first_line(error)}.")
    except tinker.RequestFailedError as error:
        if error.category != tinker.types.RequestErrorCategory.User:
            raise
        refuse("engine", f"Tinker refused the job: {first_line(error)}.")


def refuse(param: str, message: str) -> None:
    tell("refused", param=param, message=message)
    sys.exit(1)


def first_line(error: Exception) -> str:
    first, _, _ = str(error).partition("\n")
    return first[:300] or type(error).__name__


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
