"""Our trainer in the comparison of peers.py: `_peer_ours.py PLAN.json`

Trains the plan's job by the trainer's own loop. Saves the new adapter first, so that the others begin with it, and
prints a line of JSON with the loss and the seconds of each step, and the peak of memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trainers.local.launch import grow_segments

grow_segments()  # before PyTorch looks at the GPU

import torch  # noqa: E402
import transformers  # noqa: E402

from trainers.local.job_directory import read_events, read_job  # noqa: E402
from trainers.local.training.checkpoints import CHECKPOINT_S  # noqa: E402
from trainers.local.training.errors import Pauses  # noqa: E402
from trainers.local.training.loop import start_loop  # noqa: E402
from trainers.local.training.methods import sft  # noqa: E402
from trainers.local.training.metrics_logger import MetricsLogger, Step  # noqa: E402
from trainers.local.training.model_structure import linear_layers  # noqa: E402
from trainers.local.training.tuned_weights import write_tuned  # noqa: E402

TOLD = (
    "Kernels: ",
    "Attention in packs: ",
    "Rows are ",
)  # the beginnings of events that belong into the table


class TimedLogger(MetricsLogger):
    """Notes when each step is done."""

    def start(self) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self._done_at = time.perf_counter()

    def record(self, step: Step, *, is_validated_next: bool = False) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.losses.append(step.train.loss)
        self.seconds.append(now - self._done_at)
        self._done_at = now
        super().record(step, is_validated_next=is_validated_next)


def main(plan: dict[str, Any]) -> dict[str, object]:
    folder = Path(plan["job"])
    job = read_job(folder)
    logger = TimedLogger(folder)
    pauses = Pauses(folder)
    method = sft.prepare(folder, job, logger, pauses)
    loop = start_loop(folder, job, method, logger, pauses)
    first = Path(plan["first_adapter"])
    first.mkdir()
    write_tuned(first, method.model)
    base: Any = method.model.get_base_model()
    layers = linear_layers(base)
    logger.start()
    loop.train_until(time.monotonic(), CHECKPOINT_S, loop.total)
    logger.end(is_done=False)
    events = [event["message"] for event in read_events(folder)]
    notes = [message for message in events if message.startswith(TOLD)]
    return {
        "how": "; ".join(notes) or "packed",
        "losses": logger.losses,
        "seconds": logger.seconds,
        "peak": peak_memory(),
        "recomputes": loop.state.batcher.room.recomputes,
        "dtype": str(method.dtype).removeprefix("torch."),
        "linear_parameters": sum(weight_of(base, name).numel() for name in layers),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def weight_of(base: Any, name: str) -> torch.Tensor:
    layer = base.get_submodule(name)
    weight: torch.Tensor = getattr(layer, "base_layer", layer).weight
    return weight


def peak_memory() -> int:
    """Returns the bytes that a GPU had to have, or this process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))), flush=True)
