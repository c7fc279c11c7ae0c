"""Training on a Ray cluster: the server submits jobs, nodes run attempts, and a storage connects them."""
