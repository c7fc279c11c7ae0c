"""What a team has watched of the calls to what is in use."""
