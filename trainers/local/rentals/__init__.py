"""Training on a machine that is rented by the minute: the server's side, and the attempt in the container."""
