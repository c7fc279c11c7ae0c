"""Scripts that run in the engines' environments. Our own code never imports them."""
