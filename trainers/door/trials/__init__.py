"""What the door does with a candidate on trial."""
