"""What programs send about calls that others answered."""
