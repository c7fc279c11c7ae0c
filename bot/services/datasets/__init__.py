"""Datasets from the upload to the version that is trained on: checked, labelled, documented, cleaned, and with rules
for where their rows may go."""

PUBLIC_MODULES = (
    "check_reports",
    "clean_copies",
    "data_policy",
    "dataset_columns",
    "dataset_worker",
    "datasets",
    "documents",
    "pairs",
    "row_deletion",
    "row_labels",
    "row_labels_worker",
    "sealed_rows",
    "taught_rows",
    "traces",
    "trained_rows",
)
