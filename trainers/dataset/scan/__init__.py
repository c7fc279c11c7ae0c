"""The quick first pass: a few facts a row in bounded memory, and the rows once more by their places."""
