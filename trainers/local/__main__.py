"""`python -m trainers.local --port N --data DIR --model NAME=FOLDER_OR_HUB_ID`: the trainer as a process.

Checks its options, locks the data folder, prints one line when it is ready, and stops its training processes when it is
stopped. If it can't start, it exits with code 2 and a sentence that says why.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal, NoReturn

import click
import uvicorn

from trainers.encoders import DEFAULT_ENCODER
from trainers.host import BY_PCI_BUS, ENGINES_FOLDER, GPU_ORDER
from trainers.http.connections import server_config
from trainers.http.sockets import AcceptErrorFilter, address_of, allow_more_files, listen, why_no_port
from trainers.local.api.server import Config, build_app
from trainers.local.engines.vllm import find_missing_reason
from trainers.local.jobs.backends import visible_gpus
from trainers.local.ray.backend import RayOptions, RayUnusable, check_options
from trainers.local.rentals.machines import RentingOptions
from trainers.log_lines import write_log
from trainers.models.base_models import MODEL_NAME, find_preset, why_no_base

KEY_VARIABLE = "FINETUNE_TRAINER_KEY"
KEY_FILE = "trainer.key"
CALL_KEY_FILE = "call.key"
SHUTDOWN_S = 5
LONGEST_SHUTDOWN_S = 18.0  # requests have SHUTDOWN_S, then the processes of jobs and engines ten seconds
CHILD_SHUTDOWN_S = 1  # as a child of the bot, which closes its connections before it stops us
RAY_SLOTS = 64  # jobs submitted at a time; Ray queues them for its GPUs
TEAM_SLOTS = 8  # with several nodes per job: each job that waits takes a process of 130 MB on Ray's head

log = logging.getLogger(__name__)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8021,
    show_default=True,
    help="Port to listen on. 0 picks a free one.",
)
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Folder for files, jobs and adapters."
)
@click.option(
    "--model", "models", multiple=True, metavar="NAME=FOLDER_OR_HUB_ID", help="A base model. Repeatable."
)
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="NAME=FOLDER_OR_HUB_ID",
    help=f"An encoder to train on labels; {DEFAULT_ENCODER} is in the package. Repeatable.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--allow-host", multiple=True, help="Another host name that clients may use for this trainer. Repeatable."
)
@click.option(
    "--slots",
    type=click.IntRange(1, 1024),
    help="Jobs trained at the same time.  [default: one per GPU; 1 without a GPU]",
)
@click.option("--gpus-per-job", type=click.IntRange(0, 512), help="GPUs for each job.  [default: 1 per node]")
@click.option(
    "--nodes-per-job",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Machines of a Ray cluster among which a job's GPUs are divided evenly.",
)
@click.option(
    "--serving-engine",
    type=click.Choice(["builtin", "vllm"]),
    default="builtin",
    show_default=True,
    help="What answers chats. Install vllm first: finetune engines install vllm.",
)
@click.option(
    "--executor",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="Where jobs run.",
)
@click.option("--ray-address", default="http://127.0.0.1:8265", show_default=True, help="The Ray dashboard.")
@click.option(
    "--storage",
    metavar="URL",
    help="A folder that the nodes can access too: a path, s3://, gs://.  [default: the data folder, if Ray runs here]",
)
@click.option(
    "--ray-shared", is_flag=True, hidden=True, help="From 0.1.0: now --storage with the data folder."
)
@click.option(
    "--ray-python", default="python", show_default=True, help="Python with the extra [local] on the nodes."
)
@click.option("--relay-url", hidden=True, help="From 0.1.0: ignored.")
@click.option(
    "--hf-image",
    "image",
    metavar="IMAGE@sha256:…",
    help="Train jobs that name hardware on Hugging Face Jobs, in this image with the extra [local].",
)
@click.option(
    "--hf-namespace",
    "namespace",
    default="",
    help="The account that pays for them.  [default: the token's account]",
)
@click.option(
    "--hf-wait-minutes",
    "wait_minutes",
    type=click.IntRange(1, 2880),
    default=60,
    show_default=True,
    help="How long to wait for a machine.",
)
@click.option(
    "--hf-keep-files", "keeps_files", is_flag=True, help="Keep the private repositories of finished jobs."
)
@click.option("--exit-with-parent", is_flag=True, help="Stop when standard input is closed.")
def main(
    port: int,
    data: Path,
    models: tuple[str, ...],
    encoders: tuple[str, ...],
    host: str,
    allow_host: tuple[str, ...],
    slots: int | None,
    gpus_per_job: int | None,
    nodes_per_job: int,
    serving_engine: Literal["builtin", "vllm"],
    executor: str,
    ray_address: str,
    storage: str | None,
    ray_shared: bool,
    ray_python: str,
    relay_url: str | None,
    exit_with_parent: bool,
    **renting: Any,
) -> None:
    """Serve OpenAI's fine-tuning API: train this machine's models, and chat with them."""
    os.umask(0o077)
    os.environ.setdefault(GPU_ORDER, BY_PCI_BUS)
    allow_more_files()
    bases = parse_models(models)
    vector_bases = parse_encoders(encoders, bases)
    _hold = lock_data(data)
    listener = open_port(host, port)
    key, key_place = read_key(data)
    call_key = read_key_file(data / CALL_KEY_FILE)
    write_log((key, call_key), AcceptErrorFilter())
    gpus = visible_gpus()
    job_gpus = nodes_per_job if gpus_per_job is None else gpus_per_job
    check_nodes(nodes_per_job, job_gpus, storage, executor)
    check_engine(serving_engine, data)
    ray = None
    if executor == "ray":
        options = RayOptions(ray_address, storage, ray_python, gpus=job_gpus, nodes=nodes_per_job)
        ray = check_cluster(options, data, is_shared=ray_shared, relay_url=relay_url)
    else:
        check_gpus(job_gpus, gpus)
    config = Config(
        data=data,
        key=key,
        call_key=call_key,
        models=bases,
        encoders=vector_bases,
        slots=slots or usual_slots(gpus, job_gpus, ray),
        hosts=frozenset(name.lower() for name in (host, *allow_host)),
        gpus=gpus,
        gpus_per_job=max(1, job_gpus),
        serving_engine=serving_engine,
        ray=ray,
        rented=RentingOptions(**renting) if renting["image"] else None,
    )
    names = ", ".join([*bases, *vector_bases]) or "none"
    keys = f"key in {key_place} · key for calls in {data / CALL_KEY_FILE}"
    ready = f"trainer ready on {address_of(host, listener)} · models: {names} · {keys}"
    serve(config, listener, ready, exit_with_parent=exit_with_parent)


def usual_slots(gpus: Sequence[str], job_gpus: int, ray: RayOptions | None) -> int:
    """Returns the number of jobs trained at the same time, if --slots doesn't say."""
    if ray is None:
        return max(1, len(gpus) // max(1, job_gpus))
    if ray.nodes > 1:
        return TEAM_SLOTS
    return RAY_SLOTS


def check_gpus(job_gpus: int, gpus: Sequence[str]) -> None:
    if gpus and job_gpus > len(gpus):
        refuse(
            f"--gpus-per-job {job_gpus} is more than the {len(gpus)} GPUs that this trainer may use. Set it lower."
        )


def check_engine(name: str, data: Path) -> None:
    if name == "vllm" and (reason := find_missing_reason(data / ENGINES_FOLDER)):
        refuse(reason.replace("`", ""))


def check_cluster(options: RayOptions, data: Path, *, is_shared: bool, relay_url: str | None) -> RayOptions:
    """`is_shared` and `relay_url` are options of 0.1.0."""
    if relay_url is not None:
        log.warning("--relay-url is ignored: files now travel by a storage, see --storage in docs/ray.md.")
    if is_shared and options.storage is None:
        options = replace(options, storage=str(data.resolve()))
        log.warning("--ray-shared is now --storage %s.", options.storage)
    try:
        return check_options(options, data)
    except RayUnusable as error:
        refuse(str(error))


def serve(config: Config, listener: socket.socket, ready: str, *, exit_with_parent: bool) -> None:
    """Serves until the process is stopped. `ready` is printed as soon as the server answers."""
    shutdown_s = SHUTDOWN_S
    if exit_with_parent:
        shutdown_s = CHILD_SHUTDOWN_S
    server = Server(server_config(build_app(config), shutdown_s), ready)
    if exit_with_parent:
        threading.Thread(target=server.stop_at_end_of_input, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again after its shutdown: exit 0 then
    server.run(sockets=[listener])
    # Everything is on disk. A batch of answers may still be running, and torch takes seconds to unload on a busy
    # machine.
    sys.stderr.flush()
    os._exit(0)


class Server(uvicorn.Server):
    """Prints a line as soon as it answers."""

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        super().__init__(config)
        self._ready = ready

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._end_in_time()
        super().handle_exit(sig, frame)

    def _end_in_time(self) -> None:
        """Ends the process even if its shutdown hangs, as a kill would: everything is on disk."""
        timer = threading.Timer(LONGEST_SHUTDOWN_S, os._exit, (0,))
        timer.daemon = True
        timer.start()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            click.echo(self._ready)  # flushes, and writes every letter where the locale is C

    def stop_at_end_of_input(self) -> None:
        # Not from sys.stdin, whose lock would be held here and abort the interpreter's shutdown.
        while os.read(0, 4096):
            continue
        self._end_in_time()
        self.should_exit = True


def parse_models(names: Iterable[str]) -> dict[str, str]:
    """Returns the source of each base model by its name. A source that looks like a path, or is a folder, must hold a
    model."""
    hint = "with a name of letters, digits and . _ - /"
    return {name: _model_source(name, source) for name, source in _named_sources("--model", names, hint)}


def parse_encoders(names: Iterable[str], bases: Mapping[str, str]) -> dict[str, str]:
    """Returns the source of each encoder by its name. They are checked at their first use, since some have to be
    downloaded."""
    encoders: dict[str, str] = {}
    for name, source in _named_sources("--encoder", names, f"or NAME={DEFAULT_ENCODER}"):
        if name in bases:
            refuse(f"--encoder {name}={source}: --model has this name already. Choose another.")
        encoders[name] = source
    return encoders


def _named_sources(option: str, values: Iterable[str], hint: str) -> Iterator[tuple[str, str]]:
    for each in values:
        name, _, source = each.partition("=")
        if not MODEL_NAME.fullmatch(name) or not source:
            refuse(f"{option} {each}: write it as NAME=FOLDER_OR_HUB_ID, {hint}")
        yield name, source


def _model_source(name: str, source: str) -> str:
    why = why_no_base(source)
    if why:
        refuse(f"model {name}: {why}")
    folder = Path(source).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    preset = find_preset(source)
    if preset:
        return preset.hub_id
    return source


def check_nodes(nodes: int, gpus: int, storage: str | None, executor: str) -> None:
    if storage is not None and executor != "ray":
        refuse("--storage needs --executor ray: without it jobs run on this machine alone. Leave it out.")
    if nodes > 1 and executor != "ray":
        refuse(
            f"--nodes-per-job {nodes} needs --executor ray: without it jobs run on this machine alone. Leave it out."
        )
    if gpus % nodes:
        next_multiple = nodes * (gpus // nodes + 1)
        refuse(
            f"--gpus-per-job {gpus} can't be divided evenly among --nodes-per-job {nodes}: it counts all GPUs of "
            f"a job. Set it to {next_multiple}."
        )


def lock_data(data: Path) -> IO[str]:
    """Returns the lock's handle. The lock lasts as long as the handle is kept."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = (data / "lock").open("a", encoding="utf-8")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        refuse(f"another trainer is using {data}. Stop it, or name another folder with --data.")
    except OSError as error:
        refuse(f"the data folder {data} cannot be used: {error.strerror}. Name another with --data.")
    return handle


def open_port(host: str, port: int) -> socket.socket:
    try:
        return listen(host, port)
    except OSError as error:
        refuse(f"{why_no_port(host, port, error)} Try another --port; 0 picks a free one.")


def read_key(data: Path) -> tuple[str, str]:
    """Returns the key and where a user finds it."""
    text = os.environ.get(KEY_VARIABLE, "").strip()
    if text:
        if not text.isascii() or not text.isprintable() or " " in text:
            refuse(f"{KEY_VARIABLE} holds characters that can't travel in a header. Use letters and digits.")
        return text, f"${KEY_VARIABLE}"
    path = data / KEY_FILE
    return read_key_file(path), str(path)


def read_key_file(path: Path) -> str:
    """Returns the key in this file, which only this user may read. Creates the file if there is none."""
    if not path.exists():
        _create_key_file(path)
    path.chmod(0o600)
    key = path.read_text(encoding="ascii").strip()
    if not key:
        refuse(f"{path} is empty. Delete it; the next start makes a new key.")
    return key


def _create_key_file(path: Path) -> None:
    key = "sk-local-" + secrets.token_urlsafe(32)
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    # Private from the first moment: with open() it would be readable by others until its mode is changed.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{key}\n")
    temporary.rename(path)


def refuse(sentence: str) -> NoReturn:
    click.echo(f"trainer: {sentence}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main(prog_name="finetune trainer")
