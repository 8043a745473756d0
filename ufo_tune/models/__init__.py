"""Model families, and UfoModel around them."""

from ufo_tune import _torchvision

# transformers imports torchvision wherever it is installed; mend a CUDA-built wheel beside a CPU torch before that.
_torchvision.available()
