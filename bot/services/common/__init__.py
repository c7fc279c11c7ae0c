"""What every service may ask: who may do what, budgets, providers' jobs and hardware, and how a message is sent."""
