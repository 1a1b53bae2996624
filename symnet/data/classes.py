"""Class names of the data sets, in order of their index (from 1), and how a name becomes words."""

from symnet.errors import UserError

VOC = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
# By ascending category id of the annotations (1..90 with gaps).
COCO = (
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
)

# The embedded data set's, five a serial fold.
SHAPES = (
    *("star", "fish", "house", "key", "umbrella"),
    *("heart", "tree", "ladder", "mushroom", "arrow"),
    *("flower", "bottle", "ring", "butterfly", "hammer"),
    *("moon", "leaf", "gear", "anchor", "boat"),
)


def class_names(classes: str | tuple[str, ...]) -> tuple[str, ...]:
    """The names behind the setting `data.classes`. Raises `UserError` for an unknown set or a name given twice."""
    if isinstance(classes, tuple):
        twice = sorted({name for name in classes if classes.count(name) > 1})
        if twice or not 1 <= len(classes) <= 254:
            raise UserError(
                f"data.classes: {len(classes)} names{', twice: ' + ', '.join(twice) if twice else ''}; allowed: 1 to 254, no two alike"
            )
        return classes
    known = {"voc": VOC, "coco": COCO, "shapes": SHAPES}
    if classes not in known:
        raise UserError(f"data.classes: found '{classes}', allowed: {', '.join(known)}, or a list of names")
    return known[classes]
