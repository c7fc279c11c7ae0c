"""Where a training starts: at a base model, or at a tuned one whose adapter is trained further. Trains nothing."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from trainers.local.api_errors import invalid
from trainers.local.jobs.requests import Hyperparameters
from trainers.methods import BUILTIN, Parameters

OF_ADAPTER = ("lora_r", "lora_alpha", "target_modules", "quantization")
FILES = ("adapter_model.safetensors", "adapter_config.json")


@dataclass(frozen=True)
class Start:
    """`base`: a local folder or a hub id, of an encoder as trainers/encoders names it. `tuned`: the model over it that
    is trained further, where there is one."""

    base: str
    base_name: str
    tuned: Tuned | None = None
    is_encoder: bool = False

    @property
    def continues(self) -> str | None:
        return self.tuned.name if self.tuned else None

    def settings(self, hyperparameters: Hyperparameters, resolved: Parameters) -> Parameters:
        """The job's settings: an adapter that is trained further keeps its form. Raises ApiError (400) where the
        request names another form."""
        if self.tuned is None:
            return resolved
        if resolved.engine != BUILTIN:
            text = f"The engine {resolved.engine} begins at base models only. Leave 'engine' out, or name a base model."
            raise invalid(text, "hyperparameters.engine", "engine_cannot")
        if resolved.sweep:
            text = "A sweep begins at base models only. Leave 'sweep' out, or name a base model."
            raise invalid(text, "hyperparameters.sweep")
        form = {name: value for name, value in asdict(self.tuned.settings).items() if name in OF_ADAPTER}
        for name, value in form.items():
            if hyperparameters.values.get(name, value) != value:
                text = (
                    f"{self.tuned.name} has {name} {value}, and a training that goes on from it keeps that. "
                    f"Leave '{name}' out, or name its base model {self.base_name}."
                )
                raise invalid(text, f"hyperparameters.{name}")
        return replace(resolved, **form)

    def link_into(self, folder: Path) -> None:
        """Links the adapter into the new job's folder, so that the tuned model may be deleted."""
        if self.tuned is None:
            return
        (folder / "tuned").mkdir()
        for name in FILES:
            os.link(self.tuned.adapter / name, folder / "tuned" / name)
        if (self.tuned.folder / "base.json").exists():
            os.link(self.tuned.folder / "base.json", folder / "base.json")


@dataclass(frozen=True)
class Tuned:
    """A tuned model, or a checkpoint of one. `folder` is that of the job that made it."""

    name: str
    adapter: Path
    folder: Path
    settings: Parameters
