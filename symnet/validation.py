"""What the weights of a run are chosen on: fixed episodes, and how well they are segmented."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from symnet.base_learner import BaseLearner
from symnet.config import Settings
from symnet.data.episodes import Episode, TrainingEpisodes
from symnet.data.folds import FoldList, read_fold_list
from symnet.errors import UserError
from symnet.methods.base import EpisodeBatch, Method
from symnet.metrics import mean_iou
from symnet.parallel import ALONE, Ranks
from symnet.scoring import Counts
from symnet.sources import Source, make_batch, requests_of


def validation_episodes(settings: Settings, held: FoldList, test_list: Path | None, shots: int) -> list[Episode]:
    """Fixed episodes: of base classes on held-out training images; for test_best of novel classes on the test list; for last, none.

    They are drawn as training episodes are, with another seed: no test round, whatever its seed, shares that stream. Raises `UserError`
    where the test list has no class with enough images; where the held-out images have none, that is told and the last weights are taken.
    """
    t = settings.train
    selection = settings.protocol.selection
    if selection == "last":
        return []
    try:
        chosen_on = held if test_list is None else read_fold_list(test_list)
        episodes = TrainingEpisodes(chosen_on, shots, t.seed + 1, "image")
    except UserError:
        if selection == "test_best":
            raise
        print(f"warning: no base class has {shots + 1} held-out images; the last weights are taken (raise base.holdout)", flush=True)
        return []
    return [episodes[i] for i in range(t.validation_episodes)]


class Validation:
    """Fixed episodes, none where the last weights are taken, and the source of their images.

    Their records are computed at the first score and kept on the device, as they are: a resumed run makes the same again.
    """

    def __init__(
        self, episodes: Sequence[Episode], source: Source, base: BaseLearner, vectors: Tensor, batch_size: int, ranks: Ranks = ALONE
    ) -> None:
        """batch_size: of the batches, which `ranks` share; what one process counts alone is what they count together."""
        self.episodes, self.source, self.base, self.vectors, self.ranks = episodes, source, base, vectors, ranks
        pieces = [episodes[i : i + batch_size] for i in range(0, len(episodes), batch_size)]
        self._pieces = pieces[ranks.rank :: ranks.count]
        self._records: list[dict[str, Tensor] | None] = []

    @torch.no_grad()
    def score(self, method: Method) -> float:
        """mIoU (percent, padded square) of the method's best output."""
        method.eval()
        if not self._records:
            self._records = [method.record(self.base.backbone, self._batch(piece, self.source)) for piece in self._pieces]
        counts = Counts()
        for piece, record in zip(self._pieces, self._records, strict=True):
            source = self.source if record is None else self.source.only(self.base.backbone.mid_blocks)
            batch = self._batch(piece, source, record)
            for name, logits in method.predict(self.base.backbone, batch).items():
                counts.add_padded(name, logits, batch.query_mask, [str(e.class_index) for e in piece])
        method.train()
        return max(mean_iou(per_class) for per_class in self._total(method.outputs, counts))

    def _total(self, outputs: Sequence[str], counts: Counts) -> list[dict[str, list[int]]]:
        """Of each output, the counts of all processes by class."""
        found = counts.of("padded")
        classes = sorted({str(episode.class_index) for episode in self.episodes})
        table = torch.tensor([[found.get(output, {}).get(name, [0] * 4) for name in classes] for output in outputs])
        self.ranks.sum([table])
        return [dict(zip(classes, rows, strict=True)) for rows in table.tolist()]

    def _batch(self, piece: Sequence[Episode], source: Source, record: dict[str, Tensor] | None = None) -> EpisodeBatch:
        return make_batch(piece, source.features(source.load(requests_of(piece))), self.vectors, self.base.classes, record)
