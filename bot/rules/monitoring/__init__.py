"""What is read from the calls to what is in use: a week's figures, and what they call for."""
