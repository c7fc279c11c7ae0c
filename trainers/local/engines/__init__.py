"""Third-party trainers behind our API. Each has its own environment and process, and trains a job's folder."""
