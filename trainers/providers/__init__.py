"""Who trains and answers, and what it costs."""
