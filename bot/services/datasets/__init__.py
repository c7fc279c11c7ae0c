"""Datasets from the upload to the version that is trained on: checked, labelled, documented, cleaned, and with rules
for where their rows may go."""
