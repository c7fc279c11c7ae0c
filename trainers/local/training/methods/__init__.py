"""The training methods, one file each: supervised fine-tuning and DPO."""
