"""Faster computations for a loaded model: fused LoRA layers and norms, attention over packs, Liger's kernels, experts
in 4 bits."""
