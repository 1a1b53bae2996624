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
from symnet.runtime import free_memory, send
from symnet.scoring import Counts
from symnet.sources import Loader, Remembered, Source
from symnet.testing import Tester, Use, predicted, with_record


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

    What no weight changes is computed at the first score and kept on the device: the episodes' records, as they are, and of the images
    what makes the mid features, as far as a quarter of the free memory goes. A resumed run makes the same again.
    """

    def __init__(
        self, episodes: Sequence[Episode], source: Source, base: BaseLearner, vectors: Tensor, batch_size: int, ranks: Ranks = ALONE
    ) -> None:
        """batch_size: of the batches, which `ranks` share; what one process counts alone is what they count together."""
        self.episodes, self.source, self.base, self.vectors, self.ranks = episodes, source, base, vectors, ranks
        self._own, self._batch_size = episodes[ranks.rank :: ranks.count], batch_size
        self._records: dict[str, Tensor] | None = None  # columns [own episodes, ...]; none of a method that does without
        self._images: Remembered | None = None
        self._room: int | None = None  # for a test beside them

    @torch.no_grad()
    def score(self, method: Method) -> float:
        """mIoU (percent, padded square) of the method's best output."""
        method.eval()
        if self._records is None or self._images is None:
            self._records = self._record(method)
            blocks = method.blocks(self.base.backbone, bool(self._records))
            chosen = self.source if blocks is None else self.source.only(blocks)
            free = free_memory(chosen.device)
            self._images, self._room = Remembered(chosen, free // 4), free - free // 4
        records, counts = self._records, Counts(method.outputs, len(self.vectors), self.source.device)

        def use(places: list[int], batch: EpisodeBatch, _: None) -> None:
            at = send(torch.tensor(places), batch.query_mask.device)
            batch = with_record(batch, {name: column[at] for name, column in records.items()}) if records else batch
            classes = [self._own[place].class_index for place in places]
            counts.add(predicted(method, self.base.backbone, batch), batch.query_mask, classes, [c - 1 for c in classes])

        self._run(method, self._images, bool(records), use)
        method.train()
        return max(mean_iou(of_output) for of_output in self._total(method.outputs, counts))

    def _total(self, outputs: Sequence[str], counts: Counts) -> list[dict[str, list[int]]]:
        """Of each output, the counts of all processes by class."""
        found = counts.of("padded")
        keys = sorted({episode.class_index - 1 for episode in self.episodes})
        table = torch.tensor([[found.get(output, {}).get(key, [0] * 4) for key in keys] for output in outputs])
        self.ranks.sum([table])
        return [dict(zip(map(str, keys), rows, strict=True)) for rows in table.tolist()]

    def _record(self, method: Method) -> dict[str, Tensor]:
        """The columns of this process's episodes' records."""
        columns: dict[str, Tensor] = {}

        def use(places: list[int], batch: EpisodeBatch, _: None) -> None:
            for name, values in (method.record(self.base.backbone, batch) or {}).items():
                column = columns.setdefault(name, values.new_empty(len(self._own), *values.shape[1:]))
                column.index_copy_(0, send(torch.tensor(places), values.device), values)

        self._run(method, self.source, False, use)
        return columns

    def _run(self, method: Method, source: Loader, recorded: bool, use: Use) -> None:
        tester = Tester(self.base, method, source, self.vectors, self._batch_size, recorded, self._room)
        for _ in tester.run(self._own, lambda places: None, use) if self._own else ():
            pass
