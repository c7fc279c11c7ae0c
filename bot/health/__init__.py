"""What a monitoring system reads: counts and times for Prometheus, and `/healthz`."""
