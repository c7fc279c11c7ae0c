"""Models to ask and to train: their sizes, prices of a request in tokens, templates and parameters."""
