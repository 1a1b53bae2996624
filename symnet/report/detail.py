"""Tables of what the main one averages: every scoring with mIoU and FB-IoU, and the IoU of every class."""

from collections.abc import Sequence

import pandas as pd

from symnet.protocols import SCORINGS
from symnet.report import Round
from symnet.report.latex import Printed, caption, footnotes

WIDE = 8  # rows, above which a column each has to be narrow
LABELS = ["dataset", "shot", "method", "backbone", "variant"]


def scorings_printed(scorings: pd.DataFrame, rounds: Sequence[Round]) -> Printed:
    """scorings.csv, a line a row of the main table: `miou_SCORING` and `fb_iou_SCORING` of each scoring, means over folds and seeds."""
    shown = scorings.astype({"dataset": str, "shot": str}).set_index([*LABELS, "scoring"]).rename(columns={"mean": "miou"})
    columns = [(name, scoring) for scoring in SCORINGS for name in ("miou", "fb_iou")]
    wide = pd.DataFrame({f"{name}_{scoring}": shown[name].xs(scoring, level="scoring") for name, scoring in columns})
    told = caption("The same predictions under every scoring, mIoU and FB-IoU in percent", rounds, "mean over folds, then mean")
    return Printed(wide.reset_index(), ["dataset", "shot"], told, footnotes(rounds))


def classes_printed(per_class: pd.DataFrame, dataset: str, shot: int, scoring: str, rounds: Sequence[Round]) -> Printed:
    """IoU by class under one scoring, mean over seeds: a line a class, grouped by backbone and fold, a column a row of the main table."""
    of = (per_class["dataset"] == dataset) & (per_class["shot"] == shot) & (per_class["scoring"] == scoring)
    own = per_class[of].astype({"fold": str})
    wide = own.pivot_table(index=["backbone", "fold", "class"], columns="method", values="iou", sort=False)
    wide.columns.name = None
    told = caption(f"IoU in percent by class, {dataset}, {shot}-shot", rounds, "mean")
    return Printed(wide.reset_index(), ["backbone", "fold"], told, footnotes(rounds), across=True, narrow=len(wide.columns) > WIDE)
