"""Measuring candidates on the held-out rows: asked for, agreed to, asked and judged, with prompts that are searched
for and examples that are chosen."""
