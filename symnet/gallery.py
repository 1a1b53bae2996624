"""The episodes that the figures show, passed through every row of a fold: a small job of its own, after the tests.

It stands apart from the tests, which take long: another choice of episodes reruns this alone, and a failure of one row is shown as all
rows see it. One job a fold and shot, since all rows share its episodes. It reads images from the data root and passes them through
`symnet.predict`, so that it needs no cache; the IoUs beside the pictures are those that were tested, read from the rounds' episode counts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from symnet.artifacts import Provenance
from symnet.backbones.base import side as side_at_stride_8
from symnet.base_learner import BaseLearner
from symnet.cases import REGIONS, SIDE, Case, Gallery, write_gallery
from symnet.cells import lists_folder
from symnet.config_data import PixelSettings
from symnet.data.episodes import Episode, read_manifest
from symnet.data.images import IGNORE, Pixels
from symnet.data.readers import Reader, open_reader
from symnet.data.stored import Store
from symnet.data.transforms import fit
from symnet.episode_counts import EpisodeCounts, read_episode_counts
from symnet.features import forward
from symnet.methods.symnet import SymNetMethod
from symnet.model.prior import hpm, spm
from symnet.model.resize import default_scales, resize, resize_mask
from symnet.predict import FinishedRun, Predictor, Support
from symnet.shown import Choice, failures


@torch.no_grad()
def make_gallery(
    runs: Sequence[FinishedRun],
    choice: Choice,
    out: Path,
    data_root: Path,
    device: torch.device,
    provenance: Provenance,
    store: Store | None = None,
) -> None:
    """Show the chosen episodes to every row, and write what they saw. runs: of `choice.rows`, of one fold and shot. Raises `UserError`."""
    first, subject = runs[0], runs[choice.rows.index(choice.subject)]
    root = first.root
    settings, scoring = first.settings, first.settings.protocol.scoring
    episodes = read_manifest(lists_folder(root, first.cell.dataset, first.cell.fold) / f"shot{first.cell.shot}" / f"seed{choice.seed}.csv")
    tested = {run.cell.method: read_episode_counts(run.cell.episodes(root, choice.seed)) for run in runs}
    chosen = choice.numbers(episodes)
    worst = failures(tested[choice.subject], scoring, choice.failures)
    shown = _Shown(open_reader(settings.data, settings.protocol, data_root, store=store), episodes)
    numbers = list(dict.fromkeys([*chosen, *worst]))
    pictures = {number: shown.pictures(number) for number in numbers}
    for run in runs:
        predictor = Predictor(run, run.cell.shot, device, data_root)
        for number in numbers:
            pictures[number] |= _seen(predictor, shown, number, tested[run.cell.method], run is subject)
    regions = any("regions" in of for of in pictures.values())
    gallery = Gallery(
        dataset=first.cell.dataset,
        fold=first.cell.fold,
        shot=first.cell.shot,
        seed=choice.seed,
        scoring=scoring,
        subject=choice.subject,
        columns=tuple(column for row, found in tested.items() for column in found.named(row).values()),
        taus={f"tau{i}": getattr(subject.settings.model, f"tau{i}") for i in range(1, 5)} if regions else {},
        cases=tuple(
            _case(number, failure, tested, scoring, pictures[number]) for failure, own in ((False, chosen), (True, worst)) for number in own
        ),
    )
    write_gallery(out, gallery, provenance)


class _Shown:
    """Images of a round's episodes, at full size and small."""

    def __init__(self, reader: Reader, episodes: Sequence[Episode]) -> None:
        self.reader, self.episodes = reader, episodes

    def inputs(self, number: int) -> tuple[list[Support], Pixels]:
        """Supports and query at full size."""
        episode = self.episodes[number]
        return [Support(*self._load(image, episode)) for image in episode.supports], self._load(episode.query, episode)[0]

    def pictures(self, number: int) -> dict[str, Pixels]:
        """Query and truth, the first support and its mask, small."""
        episode = self.episodes[number]
        (query, truth), (support, mask) = (self._load(image, episode) for image in (episode.query, episode.supports[0]))
        return {"query": _small(query), "truth": _small(truth, True), "support": _small(support), "mask": _small(mask, True)}

    def _load(self, image: str, episode: Episode) -> tuple[Pixels, Pixels]:
        pixels, mask = self.reader.load("test", image)
        return pixels, np.where(mask == IGNORE, IGNORE, mask == episode.class_index).astype(np.uint8)


def _seen(predictor: Predictor, shown: _Shown, number: int, tested: EpisodeCounts, subject: bool) -> dict[str, Pixels]:
    """What a row predicts; of Sym-Net the two priors too, and of the subject the regions that its thresholds select."""
    supports, query = shown.inputs(number)
    method, size = predictor.method, query.shape[:2]
    with_regions = subject and isinstance(method, SymNetMethod) and method.model_settings.apa
    (found,) = predictor.predict(supports, [query], tested.classes[number], explained=with_regions)
    columns = tested.named(predictor.run.cell.method)
    pictures = {f"of {column}": _small(found.mask(output), True) for output, column in columns.items()}
    if isinstance(method, SymNetMethod):
        maps = priors(predictor.base, predictor.run.settings.pixels, supports, query, predictor.device)
        pictures |= {kind: _small((255 * values.clip(0, 1)).round().astype(np.uint8), of=size) for kind, values in maps.items()}
    if with_regions:
        regions = np.zeros(found.explained["prior"].shape, np.uint8)
        for place, region in reversed(list(enumerate(REGIONS, 1))):  # what lies in two of them shows the first
            regions[found.explained[region] > 0.5] = place
        pictures["regions"] = _small(regions, True, of=size)
    return pictures


def priors(
    base: BaseLearner, pixels: PixelSettings, supports: Sequence[Support], query: Pixels, device: torch.device
) -> dict[str, np.ndarray]:
    """HPM (its finest scale) and SPM, mean of the shots, over the query's part of the square: float32 [h, w] in [0, 1].

    Neither has a weight, so every row of a fold has the same. device: where the base learner is.
    """
    shown = [Support(query, np.zeros(query.shape[:2], np.uint8)), *supports]
    fitted = [fit(one.image, one.mask, pixels.size, pixels.antialias) for one in shown]
    high = base.backbone.levels(forward(base, torch.stack([one.image for one in fitted]).to(device))[0]).high
    masks = torch.stack([one.mask for one in fitted[1:]]).to(device)
    found = high[:1], high[1:].unsqueeze(0), resize_mask(masks.unsqueeze(0) == 1, high.shape[-1])  # [1, K, H, W]
    scales = default_scales(side_at_stride_8(pixels.size))

    def cut(prior: Tensor) -> np.ndarray:
        full = resize(prior.mean(1, keepdim=True), pixels.size)[0, 0]
        return full[: fitted[0].height, : fitted[0].width].cpu().numpy()

    return {"HPM": cut(hpm(*found, scales)[0]), "SPM": cut(spm(*found))}


def _case(number: int, failure: bool, tested: Mapping[str, EpisodeCounts], scoring: str, pictures: dict[str, Pixels]) -> Case:
    scores = {}
    for row, found in tested.items():
        for output, column in found.named(row).items():
            tp, fp, fn, _ = found.of(scoring, output)[number].tolist()
            scores[column] = (tp, tp + fp + fn)
    name = next(iter(tested.values())).classes[number]
    return Case(number, name, failure, scores, pictures)


def _small(picture: Pixels, mask: bool = False, of: Sequence[int] | None = None) -> Pixels:
    """Its longer side at most `SIDE`, masks by their nearest pixels. of: (height, width) of the picture that a map lies over."""
    height, width = (of or picture.shape)[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST if mask else Image.Resampling.BILINEAR))
