"""What a reader of one kind of source returns, before anything is held out."""

from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class RawSets:
    """The sets a source really has; each a pair (images uint8 (n, h, w, c), labels int32 (n,)).

    Attributes:
        train: always there.
        class_names: tuple of str, in the order of the labels.
        validation: None where the source has none of its own.
        test: None where the source has none of its own.
    """

    train: tuple
    class_names: tuple
    validation: tuple | None = None
    test: tuple | None = None
