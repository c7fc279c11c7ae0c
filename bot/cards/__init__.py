"""Results as Block Kit messages with their fallback text. Pure: what a person reads, nothing else."""
