"""What a fine-tune costs and saves: exact sums, chances, and what moves them."""
