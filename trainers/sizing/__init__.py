"""How large a training is before it starts: parameters, memory, what fits, how long. Pure; knows no torch."""
