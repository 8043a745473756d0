"""Training, evaluation, prediction, checkpoints: the only place that reads a Recipe."""

from ufo_tune import _torchvision

# transformers and peft import torchvision wherever it is installed; mend a CUDA-built wheel beside a CPU torch first.
_torchvision.available()
