"""What people read of the calls to what is in use: the card of a week, and the question whether to sample calls."""
