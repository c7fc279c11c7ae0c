"""Values → PNG. Drawn in worker processes only: matplotlib is imported in style.py, at use.

style.py           the figure, its colours and fonts, formatting of numbers, saving
label_layout.py    places labels so that they cover nothing
evaluations.py     quality against dollars per 1,000 requests
confusion.py       expected labels against answers
worst_labels.py    the most frequent mistakes and the labels with the lowest recall
curves.py          quality against rows to train on
training.py        loss, reward and preference by training step
datasets.py        rows per label, tokens per row
forecast.py        net dollars month by month"""

PUBLIC_MODULES = (
    "confusion",
    "curves",
    "datasets",
    "evaluations",
    "forecast",
    "training",
)
