"""The process that answers programs at one address: it forwards team/NAME to the model in use, or answers itself
for the free candidates. It reads what trainers/recipes stores, and survives the bot's restart and the trainer's."""

PUBLIC_MODULES = ()
