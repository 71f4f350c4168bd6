"""Training on top of a loaded model: the fine-tuning loop and the overfit check."""
