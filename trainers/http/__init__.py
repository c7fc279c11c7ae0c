"""What our trainer and the door have in common: errors in OpenAI's shape, checks before an endpoint, limits for
connections. Knows neither models nor recipes."""

PUBLIC_MODULES = ("connections", "errors", "guard", "metrics", "responses", "sockets")
