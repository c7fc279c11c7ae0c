"""`python -m bot …` is `finetune …`."""

from bot.cli import main

main()
