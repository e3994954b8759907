"""What a run is given: splits, D_meta from an annotator, prompts that the model writes, decontamination."""
