"""What a token of an answer costs beside the prompts that were read, with spare places in the cache and with
transformers' own cache, which copies everything it holds for each token.

`python benchmarks/decoding.py [--rows N …] [--tokens N …] [--answer N] [--dtype bf16|fp32] [--repeats N]`: the
trainer's decoding loop in this process with SmolLM2-135M and random prompts of --tokens tokens, CPU milliseconds for a
token of all rows, the median of --repeats. Both kinds take turns and must write the same tokens. One thread, since
threads that wait for each other on a busy machine count as work.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from transformers import DynamicCache  # noqa: E402

from trainers.local.serving import prefill  # noqa: E402
from trainers.local.serving.answers import Preparation  # noqa: E402
from trainers.local.serving.decoding import decode  # noqa: E402
from trainers.local.serving.growing_cache import new_cache  # noqa: E402
from trainers.local.serving.model_cache import Base  # noqa: E402
from trainers.local.serving.sequences import Row  # noqa: E402
from trainers.local.serving.values import Ids, Request, Sampling, Target  # noqa: E402

SEED = 20261202

Cache = Callable[[Any], DynamicCache]
CACHES: dict[str, Cache] = {
    "copying": lambda config: DynamicCache(config=config),
    "spare places": new_cache,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="What a token costs beside a long prompt.")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / "smollm2-135m")
    parser.add_argument("--rows", type=int, nargs="+", default=(1, 8))
    parser.add_argument("--tokens", type=int, nargs="+", default=(100, 600))
    parser.add_argument("--answer", type=int, default=40)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    os.environ["FINETUNE_DTYPE"] = options.dtype
    torch.set_num_threads(1)
    base = Base(str(options.model), "none", torch.device("cpu"))
    base.keeps_prefixes = False
    print(f"CPU ms for a token of all rows, {options.dtype}, one thread")
    print(f"{'rows':>5} {'tokens':>7} {'copying':>9} {'spare places':>13} {'ratio':>6}")
    for count in options.rows:
        for tokens in options.tokens:
            times = compare(base, count, tokens, options.answer, options.repeats)
            copying = statistics.median(times["copying"])
            spare = statistics.median(times["spare places"])
            print(f"{count:5} {tokens:7} {copying:9.1f} {spare:13.1f} {spare / copying:6.2f}", flush=True)
    return 0


def compare(base: Base, count: int, tokens: int, answer: int, repeats: int) -> dict[str, list[float]]:
    dice = random.Random(SEED)
    vocabulary = base._bare.config.get_text_config().vocab_size
    words = range(100, vocabulary)
    prompts = [tuple(dice.choices(words, k=tokens)) for _ in range(count)]
    times: dict[str, list[float]] = {name: [] for name in CACHES}
    for _ in range(repeats):
        written = {}
        for name, make_cache in CACHES.items():
            with using(make_cache):
                seconds, written[name] = answer_all(base, prompts, answer)
            times[name].append(1000 * seconds)
        assert written["copying"] == written["spare places"]
    return times


@contextmanager
def using(make_cache: Cache) -> Iterator[None]:
    with mock.patch.object(prefill, "new_cache", make_cache):
        yield


def answer_all(base: Base, prompts: Sequence[Ids], answer: int) -> tuple[float, list[list[int]]]:
    """Returns the CPU seconds of one token of all rows, without the reading of the prompts, and the answers."""
    target = Target(base._source, None)
    sampling = Sampling(temperature=0, top_p=1, max_tokens=answer, stop=(), seed=None)
    rows = []
    for prompt in prompts:
        request = Request(target, (), sampling, streams=False, emit=lambda _: None)
        rows.append(Row(request, 0, Preparation(list(prompt), answer, None, None), base.vocabulary))
    passes: list[float] = []  # when each began; the first one reads the prompts
    decode(base, rows, newcomers=lambda _: (), wait=lambda: passes.append(time.process_time()))
    written = [row.tokens for row in rows]
    seconds = time.process_time() - passes[1]
    return seconds / (len(passes) - 1), written


if __name__ == "__main__":
    sys.exit(main())
