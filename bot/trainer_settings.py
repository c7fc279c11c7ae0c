"""What [trainer] says of GPUs and of a cluster, as the command line of the trainer that the bot starts."""

from __future__ import annotations

from bot.toml_reader import Reader

RAY_ADDRESS = "http://127.0.0.1:8265"  # as trainers.local takes it where nobody says


def usual_slots(nodes: int, is_on_ray: bool) -> int:
    """Jobs at a time where nobody says: on a cluster as many as the trainer takes by itself."""
    if not is_on_ray:
        return 1
    return 64 if nodes == 1 else 8


def gpu_arguments(reader: Reader, nodes: int, is_on_ray: bool) -> tuple[str, ...]:
    """`nodes`: of one job."""
    gpus = reader.whole("trainer", "gpus_per_job", nodes, lowest=0, highest=512)
    if nodes > 1 and not is_on_ray:
        where = reader.where("trainer", "nodes_per_job")
        reader.problems.append(f'{where} needs a cluster: set executor = "ray" too, or leave it out.')
    if gpus % nodes:
        where = reader.where("trainer", "gpus_per_job")
        text = f"can't be divided evenly among {nodes} nodes: it counts all GPUs of a job, {gpus} now."
        reader.problems.append(f"{where} {text} Set it to {nodes * (gpus // nodes + 1)}.")
    several = ("--nodes-per-job", str(nodes)) if nodes > 1 else ()
    return ("--gpus-per-job", str(gpus), *several)


def ray_address(reader: Reader) -> str:
    return reader.text("trainer", "ray_address", "") or RAY_ADDRESS


def ray_arguments(reader: Reader) -> tuple[str, ...]:
    """Where its nodes have an address of ours to come to, we listen beyond this machine."""
    if reader.text("trainer", "relay_url", "") and not reader.whole(
        "trainer", "port", 0, lowest=0, highest=65535
    ):
        where = reader.where("trainer", "relay_url")
        reader.problems.append(f"{where} needs a port of our own beside it: set port too, like port = 8021.")
    given = ["--executor", "ray"]
    for name in ("ray_address", "ray_python", "relay_url"):
        value = reader.text("trainer", name, "")
        given += [f"--{name.replace('_', '-')}", value] if value else []
    given += ["--ray-shared"] if reader.flag("trainer", "ray_shared") else []
    return tuple(given + (["--host", "0.0.0.0"] if "--relay-url" in given else []))  # noqa: S104 - asked for
