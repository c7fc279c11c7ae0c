"""Everything a person reads, as cards of semantic blocks with renderers for Slack and the terminal. No I/O.

blocks.py, builder.py                  the blocks, how they become Slack's JSON, and the list that collects them
terminal.py, page.py                   the same blocks as plain text and as an HTML page
forms.py, general.py                   form fields; dialogs and notices that belong to no subject
words.py, candidates.py                how sentences write numbers, commands and measured models
advice.py, reasons.py, payback.py,     the verdict and its reasons in words
assumptions.py

Every other file covers one subject, under the same noun as in services/ and rules/."""
