"""Cards of estimates and plans."""
