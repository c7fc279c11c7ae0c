"""Training on a Ray cluster: submission from the server, the attempt on a node, and the way of a job's files
to it and back."""

from __future__ import annotations


# Where a job's training runs: child processes of this machine, or jobs of a Ray cluster.
