"""Training on machines rented by the minute: the server's side, and the process in the container."""
