"""Questions in plain words: which command answers them. Pure: no model is asked, and nothing runs."""

PUBLIC_MODULES = ("nearest",)
