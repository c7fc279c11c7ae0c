"""What "auto" (or nothing) means for a training: the one place with these rules. Pure; bot and trainer ask here.

n_epochs        so many passes that 2,000 rows are seen, 3 at most; our own trainer sees sets of under 200 rows
                so often that 600 are seen, 10 times at most. A third pass over 1,500 rows and more gains nothing
                that a holdout of 200 could show.
batch_size      4 under 200 rows, so that an epoch has steps enough to learn in; 8 up to 8,000 rows (on 1,000
                rows 8 scored 93.5% where 16 scored 85.5%), 16 up to 16,000, then 32.
learning_rate   5e-4 x (2000 / the base's hidden size) ^ 0.781, at most 1e-3, two digits of it; for Qwen the power
                is 0.0775. Where the hidden size isn't known: 3e-4. The formula is the Tinker cookbook's
                (hyperparam_utils.get_lr), fitted to LoRA on Llama and Qwen; 1e-3 was measured here on 135M.

For preference pairs (DPO):
n_epochs        so many passes that 2,000 pairs are seen, 3 at most: more passes over few pairs only push the rejected
                answers further down.
learning_rate   a fortieth of the above. TRL's own scripts train the same model with LoRA at 2e-4 on chats (sft.py)
                and at 5e-6 on pairs (dpo.py); for 7B the rule gives 7e-6, the alignment handbook's zephyr-7b-dpo-qlora
                has 5e-6. Few pairs want more: docs/preferences.md has what was measured.
beta            0.1, as in the paper (Rafailov et al. 2023, arXiv 2305.18290, appendix B) and in TRL.
"""

from __future__ import annotations

from typing import Literal

ROWS_SEEN = 2_000
MOST_PASSES = 3
FEW_ROWS = 200
FEW_ROWS_SEEN = 600
MOST_PASSES_OVER_FEW = 10
BATCHES = ((FEW_ROWS, 4), (8_000, 8), (16_000, 16))
LARGEST_BATCH = 32
HIGHEST_RATE = 1e-3
RATE_OF_UNKNOWN = 3e-4
RATE_AT_2000 = 5e-4
POWERS = {"qwen": 0.0775}
POWER = 0.781
PAIRS_SHARE = 40
BETA = 0.1


def epochs_for(rows: int, method: Literal["supervised", "dpo"] = "supervised") -> int:
    """Passes over `rows` rows of training."""
    if method == "dpo":
        return hosted_epochs_for(rows)
    return max(hosted_epochs_for(rows), min(MOST_PASSES_OVER_FEW, _passes(FEW_ROWS_SEEN, rows)))


def hosted_epochs_for(rows: int) -> int:
    """For a service that bills every token and chooses its batch and rate itself."""
    return min(MOST_PASSES, _passes(ROWS_SEEN, rows))


def batch_for(rows: int) -> int:
    """Rows a step."""
    return next((batch for below, batch in BATCHES if rows < below), LARGEST_BATCH)


def rate_for(hidden_size: int | None, family: str = "") -> float:
    """The learning rate of LoRA on a base of that hidden size; `family` is its config's model_type."""
    if hidden_size is None:
        return RATE_OF_UNKNOWN
    power = next((power for name, power in POWERS.items() if family.startswith(name)), POWER)
    return float(f"{min(HIGHEST_RATE, RATE_AT_2000 * (2000 / hidden_size) ** power):.2g}")


def rate_for_pairs(rate: float) -> float:
    """The learning rate of DPO, where `rate` is that of chats."""
    return float(f"{rate / PAIRS_SHARE:.2g}")


def _passes(seen: int, rows: int) -> int:
    return -(-seen // max(rows, 1))
