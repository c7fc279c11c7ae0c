"""The people of both workspaces, with the same ids: two people, the bot, and one private channel."""

from __future__ import annotations

from demo.workspace import Channel, Person

BOT = Person("U0FINETUNE", "finetune", "Finetune")
ANA = Person("U0ANA", "ana", "Ana Reyes", "ana@example.com")
BEN = Person("U0BEN", "ben", "Ben Okafor", "ben@example.com")
TICKETS = Channel("C0TICKETS", "ml-tickets", (ANA.id, BEN.id, BOT.id))
