"""How a job's folder gets to a machine without a common disk and back, over HTTP that the machine begins."""
