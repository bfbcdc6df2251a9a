"""Distortions: random views of a batch of images, drawn as whole-batch operations.

`CropFlip` is the papers' augmentation; the others are stronger ones, which the discussion of
data-distortion guided self-distillation names as future work. `Chain` applies several.
"""

from sd_keras.distortions.base import Distortion
from sd_keras.distortions.chain import Chain
from sd_keras.distortions.color import Color
from sd_keras.distortions.crop_flip import CropFlip
from sd_keras.distortions.geometric import Affine, Perspective, ThinPlateSpline
