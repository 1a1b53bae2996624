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
    """Of one way: episodes a second by shots in training, and in testing; images a second of the backbone.

    `record`: where testing reads records, episodes a second at which they are made, from features: those of a way that does the whole of
    a test are a lower bound. None: a test starts from images each time.
    """

    train: Mapping[int, float]
    evaluate: Mapping[int, float]
    backbone: float
    record: Mapping[int, float] | None


def hours(rates: Rates) -> dict[str, float]:
    """Hours by part, and `total`."""
    folds = len(TRAIN_IMAGES)
    tested = folds * (EPOCHS * VALIDATION + ROUNDS * ROUND)  # episodes, of a number of shots
    fixed = folds * (VALIDATION + ROUNDS * ROUND)  # of them, different ones
    episodes = EPOCHS * sum(images // BATCH * BATCH for images in TRAIN_IMAGES)
    seconds = {f"train {shots}-shot": episodes / rates.train[shots] for shots in SHOTS}
    seconds |= {f"validate and test {shots}-shot": tested / rates.evaluate[shots] for shots in SHOTS}
    once = {shots: fixed / rates.record[shots] for shots in SHOTS} if rates.record else {}
    seconds["records, once"] = sum(once.values())
    seconds["test images through the backbone, once"] = sum(TEST_IMAGES) / rates.backbone if rates.record else 0.0
    return {name: value / 3600 for name, value in {**seconds, "total": sum(seconds.values())}.items()}
