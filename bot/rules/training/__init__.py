"""Rules on runs that are over: what to do with a tuned model, and how far estimates were off. Pure."""
