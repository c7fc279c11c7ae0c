"""Where a job's training runs: child processes of this machine, or jobs of a Ray cluster."""
