"""Prices and terms of machines that are rented by the minute. trainers/local/rentals starts the machines."""
