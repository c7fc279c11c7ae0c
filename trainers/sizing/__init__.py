"""Estimates a training before it starts: parameters, memory, fitting hardware, and time. Pure, without torch."""
