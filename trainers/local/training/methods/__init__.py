"""The training methods, one file each, and the setup shared by those that use TRL's losses."""
