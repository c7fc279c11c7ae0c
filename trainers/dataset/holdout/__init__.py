"""Which rows are held out: drawn once, and kept through later versions."""
