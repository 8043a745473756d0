"""Reading images, under the data layer's name. The code is in ``core``: datasets, below this layer, need sizes."""

from ufo_tune.core.images import FORMATS, MAX_PIXELS, grey_thumbnail, image_size, open_image, sample_image

__all__ = ["FORMATS", "MAX_PIXELS", "grey_thumbnail", "image_size", "open_image", "sample_image"]
