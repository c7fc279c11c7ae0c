"""The trainer's jobs: requests for them, their records on disk, their queue, and the processes that run them
on this machine."""
