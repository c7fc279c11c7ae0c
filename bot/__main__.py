"""Makes `python -m bot …` the same as `finetune …`."""

from bot.cli import main

main()
