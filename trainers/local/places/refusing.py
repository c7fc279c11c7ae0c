"""May this job be trained where this trainer's jobs run? Asked before anything starts."""

from __future__ import annotations

from trainers.local.engines.catalog import BUILTIN
from trainers.local.engines.refusing import Refused
from trainers.local.places.place import Place
from trainers.local.spool import LoraSettings


def place_refusal(place: Place, settings: LoraSettings) -> Refused | None:
    if settings.engine != BUILTIN and not place.is_here:
        text = (
            f"This trainer's jobs run on a cluster, where the engine {settings.engine} is not installed. Leave "
            "'engine' out, or ask a trainer that trains on its own machine."
        )
        return Refused("engine_not_installed", text)
    if settings.engine != BUILTIN and place.processes > 1:
        where, option = "", "--gpus-per-job"
        if place.nodes > 1:
            where, option = f" on {place.nodes} nodes", "--nodes-per-job"
        text = (
            f"This trainer gives each job {place.processes} processes{where}, and the engine {settings.engine} is run "
            f"by one. Leave 'engine' out, or ask one without {option}."
        )
        return Refused("engine_cannot", text)
    return _sharding(place, settings) if settings.sharding == "fsdp" else None


def _sharding(place: Place, settings: LoraSettings) -> Refused | None:
    if place.processes == 1:
        text = (
            "sharding 'fsdp' divides the base among a job's GPUs, and this trainer gives each job one. Leave it out, "
            "or start the trainer with --gpus-per-job 2 or more."
        )
        return Refused("sharding_unavailable", text, "sharding")
    if settings.quantization != "none":
        text = f"A base in {settings.quantization} is not divided among GPUs. Leave 'sharding' or 'quantization' out."
        return Refused("sharding_unavailable", text, "sharding")
    if settings.sweep:
        text = (
            "The arms of a sweep take turns on one base, which is not divided among GPUs. Leave 'sharding' or 'sweep' "
            "out."
        )
        return Refused("sharding_unavailable", text, "sharding")
    if settings.beta is not None:
        text = "Preference pairs are trained on a whole base, which is not divided among GPUs. Leave 'sharding' out."
        return Refused("sharding_unavailable", text, "sharding")
    return None
