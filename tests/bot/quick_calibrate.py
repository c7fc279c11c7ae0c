"""`python -m tests.bot.quick_calibrate`: trainers.local.calibrate with a narrower model and smaller products."""

from __future__ import annotations

from transformers import LlamaConfig

from trainers.local import calibrate
from trainers.sizing import memory


def narrow_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=8192,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=calibrate.LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        max_position_embeddings=32768,
    )


if __name__ == "__main__":
    calibrate._config = narrow_config
    calibrate.PEAK_SIDE = 256
    calibrate.HEAD_TOKENS = 16
    memory.TILE_WORDS = 1024
    calibrate.main()
