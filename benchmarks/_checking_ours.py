"""Our check of one file, timed by `checking.py`: `python benchmarks/_checking_ours.py FILE [FOLDER]`

Prints the result and the time of each stage. With a FOLDER the two parts of FILE are written there.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main(source: Path, out: Path | None) -> None:
    from trainers.dataset import CheckSettings, Columns, Limits, check_file

    report = check_file(
        source, source.name, Columns(), out, 7, CheckSettings(limits=Limits(max_bytes=1_000_000_000))
    )
    assert not report.is_blocked, report.findings
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.stages)
    print(f"{report.tokens.rows.total:,} tokens, {report.n_train:,} + {report.n_holdout:,} rows; {stages}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
