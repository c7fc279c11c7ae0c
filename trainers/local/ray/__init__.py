"""Training on a Ray cluster: submission by the server, the attempt on a node, and the storage between them."""
