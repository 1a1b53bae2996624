"""The protocols of the field as named, versioned blocks, and what sets one apart from another, in words.

Numbers of one data set differ by 1 to 9 points through protocol alone. A block is never edited once released: a rule that changes gets a
new version of its name, so that a stamp of last year still says what was done.
"""

from collections.abc import Mapping
from typing import Any

from symnet.errors import UserError

Protocol = Mapping[str, Any]

_COCO = {"split": "fwb", "episodes": 5000}
_RELEASED = {"sampling": "released", "selection": "test_best"}  # what nearly all released code does
_BAM = {**_RELEASED, "scoring": "original"}
_PFENET = {**_BAM, "novel_in_train": "background"}
_HSNET = {"novel_in_train": "background", "sampling": "balanced", "scoring": "400", "selection": "test_best"}

# Name -> what differs from the defaults of the section `protocol`, which are symnet-1. The field's, as far as one block can say them:
# HSNet's own lists, for one, leave out other test images than our rule does.
BLOCKS: dict[str, dict[str, Any]] = {
    "symnet-1": {},
    "symnet-coco-1": _COCO,
    "released-1": _RELEASED,
    "released-coco-1": {**_COCO, **_RELEASED},
    "bam-1": _BAM,
    "bam-coco-1": {**_BAM, "split": "fwb"},
    "pfenet-1": {**_PFENET, "episodes": 5000},
    "pfenet-coco-1": {**_PFENET, "split": "fwb", "episodes": 20000},
    "hsnet-1": _HSNET,
    "hsnet-coco-1": {**_HSNET, "split": "fwb"},
}

# Every field of a protocol, and what its values mean. `{}` is the value.
WORDS: dict[str, dict[Any, str] | str] = {
    "novel_in_train": {
        "drop": "training images with novel pixels left out",
        "background": "novel pixels of training images painted background",
    },
    "min_pixels": "a class counts from {} pixels",
    "crowd": {"ignore": "crowds ignored", "drop": "crowds left out"},
    "split": {"serial": "folds of consecutive classes", "fwb": "folds of every n-th class"},
    "episodes": "{} episodes a seed",
    "sampling": {
        "image": "queries in turn through the whole test list",
        "released": "queries in turn from the head of the test list",
        "balanced": "query classes drawn uniformly",
    },
    "scoring": {"padded": "scored at the padded square", "original": "scored at original size", "400": "scored at 400x400"},
    "selection": {
        "base_val": "weights best on held-out images of base classes",
        "last": "weights of the last step",
        "test_best": "weights best on the test fold",
    },
    "image_size": "input of side {}",
}

SCORINGS = tuple(map(str, WORDS["scoring"]))  # all of them are computed, whichever the protocol is


def block(name: str) -> dict[str, Any]:
    """What a named block fixes beside the defaults. Raises `UserError` with the names there are."""
    if name not in BLOCKS:
        raise UserError(f"protocol: found '{name}', allowed: {', '.join(BLOCKS)}, an experiment file or a metric file")
    return dict(BLOCKS[name])


def in_words(protocol: Protocol) -> str:
    """A protocol as a caption tells it."""
    return ", ".join(_word(key, protocol[key]) for key in WORDS if protocol.get(key) is not None)


def differences(one: Protocol, other: Protocol) -> dict[str, tuple[str, str]]:
    """Field -> what either does, in words, for the fields in which they differ. One that only one of them fixes is not told."""
    both = [key for key in WORDS if key in one and key in other]
    return {key: (_word(key, one[key]), _word(key, other[key])) for key in both if one[key] != other[key]}


def _word(key: str, value: Any) -> str:
    told = WORDS[key]
    return told.format(value) if isinstance(told, str) else told[value]
