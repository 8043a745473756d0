"""From samples to batches: images, augmentation, the mixture, collation and the loader."""
