"""Writes docs/hyperparameters.md from the declarations in trainers/methods.py: `python docs/hyperparameters.py`"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainers.local.engines.plan import HYPERPARAMETER_KEYS  # noqa: E402
from trainers.methods import METHODS, Spec, specs  # noqa: E402

PAGE = ROOT / "docs" / "hyperparameters.md"
HEAD = """# Hyperparameters

Written by `python docs/hyperparameters.py` from `trainers/methods.py`. The name is used in the API, the option in
`/finetune start` and `estimate` (and as `--option` in `finetune estimate`). A value that is not given, or "auto",
becomes the default. "Engines" says whether unsloth, axolotl and llamafactory support it too; they refuse what they
don't support before anything starts.

| name | option | what it is | must be | default | sweep | engines | methods |
|---|---|---|---|---|---|---|---|
"""


def page() -> str:
    rows = [_cells(spec) for method in METHODS for spec in specs(method).values()]
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in dict.fromkeys(rows))


def _cells(spec: Spec) -> tuple[str, ...]:
    declared = spec.declared
    methods = [name for name in METHODS if specs(name).get(spec.name) == spec]
    return (
        f"`{spec.name}`",
        f"`{declared.option}=`" if declared.option else "",
        declared.help,
        spec.wants.replace("|", "\\|"),
        declared.default_text or ("none" if spec.default is None else f"`{spec.default}`"),
        "yes" if declared.sweeps else "",
        "yes" if spec.field in HYPERPARAMETER_KEYS else "",
        ", ".join(methods) if len(methods) < len(METHODS) else "all",
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
