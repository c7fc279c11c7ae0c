"""Result → Block Kit and fallback text. Pure: what a person reads, nothing else."""
