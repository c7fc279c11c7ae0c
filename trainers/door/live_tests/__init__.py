"""What the door does with a candidate in a live test."""
