"""The use cases, one module for each subject: the only code that uses both the store and a trainer. A step gathers,
decides, records the intent, acts, records the outcome and returns a result."""

from __future__ import annotations
