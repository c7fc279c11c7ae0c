"""How long does it take to check 100,000 chat rows, and how much memory? `python benchmarks/check.py [ROWS]`

Writes about 81 MB of chat rows into a temporary folder, checks them in a fresh process, prints one line.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SPEECH = """
    printer paper receipt till shop order refund invoice login password update cable wifi ticket customer
    yesterday morning please again never always because without after before charge account email address
    cancel delivery broken screen light button menu export report tax plan month year euro twice nothing
"""
LABELS = ("billing", "refund", "cancel", "login", "how_to", "delivery", "hardware_fault", "app_bug")


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "rows.jsonl"
        write_rows(source, rows)
        child = subprocess.run(
            [sys.executable, __file__, "--child", str(source), name],
            check=True,
            capture_output=True,
            text=True,
        )
        size = source.stat().st_size
    said = json.loads(child.stdout)
    print(
        f"{rows:,} rows, {size / 1e6:.1f} MB: {said['seconds']:.2f} s, "
        f"{size / 1e6 / said['seconds']:.1f} MB/s, peak {said['rss_mb']:.0f} MB, {said['tokens']:,} tokens, "
        f"{said['train']:,} rows to train on and {said['holdout']:,} held out"
    )


def write_rows(path: Path, rows: int) -> None:
    """About 810 bytes a row: instructions, two questions, two answers, the last of them a label."""
    chance = random.Random(7)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            messages = [
                {"role": "system", "content": "Classify the customer's message. Answer with the label only."},
                {"role": "user", "content": sentence(chance, 30)},
                {"role": "assistant", "content": sentence(chance, 15) + "?"},
                {"role": "user", "content": f"Ticket {number}: {sentence(chance, 37)} – “merci”!"},
                {"role": "assistant", "content": chance.choice(LABELS)},
            ]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def sentence(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(SPEECH.split(), k=words))


def check(source: Path, out: Path) -> None:
    from trainers.dataset import Columns, Limits, check_file

    report = check_file(source, source.name, Columns(), out, 7, limits=Limits(max_bytes=1_000_000_000))
    assert not report.blocked, report.findings
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "seconds": report.seconds,
        "rss_mb": peak / (1e6 if sys.platform == "darwin" else 1e3),
        "tokens": report.tokens.rows.total,
        "train": report.n_train,
        "holdout": report.n_holdout,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        check(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
