"""Small images that stay on the device, from which a training step picks its batch."""

from sd_keras.data.batches import Batches, check_whole


class OnDevice(Batches):
    """As `Batches`, with all images in the device's memory and many steps in one program.

        train = OnDevice(images, labels, 128, seed=0)
        model.fit(train, epochs=200)

    `fit` sends the images to the device once and the order of an epoch as numbers: per step
    nothing. `steps` training steps run in one compiled program, in which each picks its images,
    draws the views and updates the weights; what callbacks call a batch is such a block. The
    images, their order and all that is computed are those of `Batches` in the same epoch; an
    incomplete last batch is a block of its own, and blocks of up to three sizes are compiled.
    A loss that is not finite ends `fit` behind the block that it is in. Without `seed` the order
    is that of the images in every epoch. There are no sample weights. On TensorFlow every `fit`
    compiles anew.

    For CIFAR and the like: 50,000 images of 32x32 take 154 MB. On one device; TensorFlow, JAX
    or PyTorch. PyTorch runs the steps one by one, and so does JAX on a CPU, where a convolution
    within a loop is compiled to far slower code.

    Args:
        steps: training steps in one program. A divisor of the number of an epoch's whole
            batches above half of it is taken in its place, and one size less is compiled.
        images, labels, batch_size, seed, initial_epoch, drop_remainder: as `Batches`.

    Raises:
        ValueError: as `Batches`; or for `steps` below 1.
    """

    def __init__(
        self,
        images,
        labels,
        batch_size,
        seed=None,
        initial_epoch=0,
        drop_remainder=False,
        steps=100,
    ):
        super().__init__(images, labels, batch_size, seed, initial_epoch, drop_remainder)
        check_whole("steps", steps, 1)
        whole = len(images) // batch_size
        best = max((k for k in range(1, min(steps, whole) + 1) if whole % k == 0), default=0)
        self.steps = best if 2 * best > min(steps, whole) else steps

    def blocks(self, steps=None):
        """Gives the numbers of the images of the current epoch, int32 `(steps, batch)` a block.

        Args:
            steps: training steps in a block, in place of its own.
        """
        steps = steps or self.steps
        count, size = len(self.images), self.batch_size
        order = self.order.astype("int32")
        whole = count // size
        batches = order[: whole * size].reshape(whole, size)
        for first in range(0, whole, steps):
            yield batches[first : first + steps]
        if count % size and not self.drop_remainder:
            yield order[None, whole * size :]
