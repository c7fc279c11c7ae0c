"""One module a noun. The only code that holds both the store and a trainer.

A step is always: gather, decide, record the intent, act, record the outcome, return a result.
"""
