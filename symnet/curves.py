"""Curves by epoch, from a journal that counts steps."""

from symnet.journal import Run

LOSS, SCORE = "loss", ".miou"
Point = tuple[float, float]  # value, time


def by_epoch(run: Run) -> dict[tuple[str, int], Point]:
    """(name, epoch from 1) to the mean loss of its steps, or to its last mIoU, for the epochs that are over.

    A logged loss is the mean of the steps since the one logged before it; where an epoch ends between two, each takes its share.
    """
    size = run.tags.get("epoch_steps", "")
    if not str(size).isdecimal() or not run.metrics.get(LOSS):
        return {}
    length = int(size)
    over = (max(run.metrics[LOSS]) - (run.ended is None)) // length  # the validation at its last step may be under way
    found: dict[tuple[str, int], Point] = {}
    for name, points in run.metrics.items():
        if name.partition(".")[0] == LOSS:
            found |= {(name, epoch): point for epoch, point in _means(points, length).items() if epoch <= over}
        elif name.endswith(SCORE):
            found |= {(name, -(-step // length)): point for step, point in points.items() if -(-step // length) <= over}
    return found


def _means(points: dict[int, Point], length: int) -> dict[int, Point]:
    """Epoch to the mean over its steps, and the time of the last one."""
    sums: dict[int, tuple[float, int, float]] = {}
    before = 0
    for step, (value, time) in points.items():
        for epoch in range(before // length + 1, -(-step // length) + 1):
            count = min(step, epoch * length) - max(before, (epoch - 1) * length)
            total, steps, _ = sums.get(epoch, (0.0, 0, 0.0))
            sums[epoch] = total + count * value, steps + count, time
        before = step
    return {epoch: (total / steps, time) for epoch, (total, steps, time) in sums.items()}
