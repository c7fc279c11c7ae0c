"""What a person reads, as cards of semantic blocks with renderers for Slack and the terminal. Pure.

blocks.py                              what cards are made of, and how Slack shows it
terminal.py, page.py                   the same as plain text, and as a page of HTML
forms.py, general.py                   fields of forms; dialogs and notices of no subject
words.py, candidates.py                how sentences name numbers, commands and measured models
advice.py, reasons.py, payback.py,     what a verdict rests on, in words
assumptions.py

Every other file belongs to a subject and has the noun that it has in services/ and rules/."""
