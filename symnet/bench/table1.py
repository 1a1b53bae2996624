"""How long the paper's Table 1 takes at measured rates: PASCAL-5i, 4 folds, 1 and 5 shots, 200 epochs, validation after each."""

from collections.abc import Mapping
from dataclasses import dataclass

TRAIN_IMAGES = (4208, 3726, 2752, 4510)  # of each fold's list; an epoch is one episode an image
TEST_IMAGES = (364, 445, 592, 336)
SHOTS = (1, 5)
EPOCHS, BATCH = 200, 8
VALIDATION, ROUND, ROUNDS = 1000, 1000, 5  # episodes a validation (the released code's), episodes a test round, rounds
ASSUMED = (
    f"{len(TRAIN_IMAGES)} folds of PASCAL-5i, {' and '.join(map(str, SHOTS))} shots, {EPOCHS} epochs in batches of {BATCH}, "
    f"{VALIDATION} episodes of validation after each, {ROUNDS} test rounds of {ROUND}; reading images and the base learner left out"
)


@dataclass(frozen=True)
class Rates:
    """Of one way: episodes a second by shots in training, and in testing with features at hand; images a second of the backbone.

    `reuses`: whether a test image passes the backbone once a fold, or with every episode that shows it.
    """

    train: Mapping[int, float]
    evaluate: Mapping[int, float]
    backbone: float
    reuses: bool


def hours(rates: Rates) -> dict[str, float]:
    """Hours by part, and `total`."""
    tested = len(TRAIN_IMAGES) * (EPOCHS * VALIDATION + ROUNDS * ROUND)  # episodes, of a number of shots
    images = sum(TEST_IMAGES) if rates.reuses else sum(tested * (1 + shots) for shots in SHOTS)
    episodes = EPOCHS * sum(images // BATCH * BATCH for images in TRAIN_IMAGES)
    seconds = {f"train {shots}-shot": episodes / rates.train[shots] for shots in SHOTS}
    seconds |= {f"validate and test {shots}-shot": tested / rates.evaluate[shots] for shots in SHOTS}
    seconds["test images through the backbone"] = images / rates.backbone
    return {name: value / 3600 for name, value in {**seconds, "total": sum(seconds.values())}.items()}
