"""The trainer's jobs: requests to create them, their records on disk, their queue, and the processes that run them on
this machine."""
