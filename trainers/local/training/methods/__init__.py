"""The training methods, one file each, and what those with TRL's losses share."""
