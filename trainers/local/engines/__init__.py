"""Other people's trainers behind our API: each in an environment and a process of its own, fed from a job's folder."""
