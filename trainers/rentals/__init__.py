"""Machines that are rented by the minute: prices and terms. What starts them is trainers/local/rentals."""
