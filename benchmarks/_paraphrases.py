"""Paraphrases of forty support tickets, which share only very common words with them.

Each is keyed by the beginning of its ticket.
"""

from __future__ import annotations

PARAPHRASES: dict[str, str] = {
    "two accounts same email": "I have a duplicate profile under my address; could both become a single profile?",
    "Totals off by a penny": "Rounding is wrong by one cent when several people share the invoice.",
    "suggestion: bigger buttons": "The keys on screen are too small for my hands, could they be larger?",
    "what do i do to get refund if": "Can I have my money returned though I threw the packaging away?",
    "receipt footer text, where to change": "How can I edit the line printed at the bottom of each bill?",
    "Can you take me off the automatic renewal": "Please let my subscription end with its term, not extend by itself.",
    "pls unlock my account": "My profile is blocked, open it again please.",
    "access denied since this morning": "I am not allowed in any more, it began today.",
    "charging port loose": "The socket for the power plug wobbles and the cord slips.",
    "Parcel lost according to courier": "The shipping company says my package has gone missing. What happens next?",
    "how do i invite my accountant": "My bookkeeper needs to look at figures, nothing else. How do I add her?",
    "Download invoice button gives an empty PDF": "When I try to save my bill as a file it is blank.",
    "Labels feed two at a time": "The machine pulls double stickers and wastes half of them.",
    "cutter stuck halfway": "The knife jammed in the middle of its path and I cannot shut the cover.",
    "Cannot delete a draft order": "Removing an unfinished purchase does not work, it reappears every time.",
    "Money back. Now.": "Reimburse me immediately, this device is worthless.",
    "Emoji on labels": "I would like little smileys and symbols to appear on my stickers.",
    "Can I pay by SEPA direct debit": "Would you accept a bank transfer drawn from our account instead of Visa?",
    "paper comes out black": "Every sheet is completely dark after printing.",
    "Account deletion request under GDPR": "Erase all personal data you hold about me, as privacy law demands.",
    "please make it possible to sort product by colour": "Ordering my items according to their hue would help.",
    "Don't ship the printer": "I no longer want the device, do not send it.",
    "crash on start after ios update": "Since Apple's new system version the app closes as soon as I open it.",
    "captcha on sign in page never loads": "The picture puzzle that proves I am human does not appear when logging on.",
    "nothing happens when I press log in": "Clicking the button to enter has no effect at all.",
    "Green light blinking, then orange": "The status lamp flashed, changed colour and went dark.",
    "does the shop plan price include vat": "Is tax contained in what your subscription costs?",
    "What's the quickest way to update prices": "I want to raise what my whole range costs by a twentieth in one go.",
    "Got a shock off the metal plate": "I felt electricity when touching the device's casing.",
    "printer beeps 5 times and stops": "The machine gives a series of tones and halts; which fault is it signalling?",
    "Excel says the exported file is corrupt": "The spreadsheet I downloaded is damaged and cannot be opened properly.",
    "hiya can u change my shop name": "There is a typo in how our store is called, would you correct it?",
    "two factor code is always expired": "The security number texted to me arrives too late for being accepted.",
    "cant select printer in the app": "My device cannot be chosen on the phone, the entry is disabled.",
    "Feed motor hums but nothing moves": "I hear it buzzing, yet the paper stays where it is.",
    "change email adress on my account": "My contact mail belongs to a former employer, I need another one registered.",
    "Offline reports": "Could I see my figures without an internet connection?",
    "whole app is in German": "A child set everything to a foreign language, how do I get it in mine again?",
    "spinning wheel forever on login": "Signing on never finishes, it keeps loading.",
    "reset mail never comes": "I asked for a new password and no message arrives, not even among the junk.",
}
