"""Which model goes into use, and when the machine that it answers on is stopped."""
