"""The inputs of a run: splits, D_meta, prompts that the model writes, decontamination."""
