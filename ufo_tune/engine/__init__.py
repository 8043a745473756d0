"""Training, evaluation, prediction, merging: the only layer that reads a recipe."""
