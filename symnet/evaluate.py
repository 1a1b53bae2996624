"""Testing a method on a fold: one round of written episodes a seed, integer counts per class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symnet.artifacts import write_json
from symnet.backbones.base import load_exactly
from symnet.base_learner import BaseLearner, load_base
from symnet.cells import Cell, Round
from symnet.checkpoint import load_tensors
from symnet.config import Settings
from symnet.data.classes import class_names
from symnet.data.episodes import Episode, left_out, read_manifest
from symnet.data.folds import novel_classes, read_fold_list
from symnet.data.images import Pixels
from symnet.data.readers import Reader, open_reader
from symnet.data.stored import Store
from symnet.data.transforms import unfit
from symnet.embeddings import read_embeddings
from symnet.errors import UserError, one_line
from symnet.methods import METHODS, method_class
from symnet.methods.base import Method
from symnet.metrics import protocol_stamp
from symnet.model.resize import resize
from symnet.overlays import draw_overlays
from symnet.precision import answering, format_name, precision_of
from symnet.prefetch import ahead
from symnet.progress import progress
from symnet.protocols import SCORINGS
from symnet.recorded import EpisodeRecords
from symnet.scoring import Counts
from symnet.sources import Source, make_batch, open_source, requests_of

STAGE = "evaluate"


@dataclass(frozen=True)
class Inputs:
    """Files an evaluation reads, beside those of each round. `features`: the test cache, None to recompute; `model`: None for a method
    that is not trained.

    `store`: where images are kept decoded, None to decode them.
    """

    test_list: Path
    base: Path
    embeddings: Path
    features: Path | None
    model: Path | None
    store: Store | None = None


@torch.no_grad()
def evaluate(
    settings: Settings,
    data_root: Path,
    cell: Cell,
    method_name: str,
    experiment: str,
    inputs: Inputs,
    rounds: list[Round],
    device: torch.device,
) -> None:
    """Run every round and write its metric file. All scorings are always computed, of the same predictions.

    `method_name` is the method behind the cell's row.
    """
    precision = precision_of(settings.evaluate.precision, device)
    recomputed = precision_of(settings.features.precision, device).frozen
    base = answering(load_base(inputs.base).to(device), recomputed, device.type == "cuda")
    if base.name != settings.backbone.name:
        raise UserError(
            f"{inputs.base}: its backbone is {base.name}, backbone.name is {settings.backbone.name}; set that, or give another file"
        )
    names, vectors = read_embeddings(inputs.embeddings)
    source = open_source(settings, data_root, "test", inputs.features, base, device, inputs.store)
    method = method_class(method_name)(settings, base.backbone, cell.shot, vectors.shape[1], source.side)
    if METHODS[method_name].trained:
        _load(method, inputs.model, method_name, cell.shot, settings)
    method.to(device).eval()
    method.dtype = precision.trained
    reader = open_reader(settings.data, settings.protocol, data_root, store=inputs.store)
    novel = novel_classes(cell.fold, len(names), settings.data.folds, settings.protocol.split)
    if seen := [names[c - 1] for c in novel if c in base.classes]:
        raise UserError(
            f"{inputs.base}: was trained on {', '.join(seen)}, which fold {cell.fold} tests; give the base learner of that fold"
        )
    numbers = {"features": format_name(recomputed), "head": format_name(precision.trained)}
    dropped = {names[c - 1]: reason for c, reason in left_out(read_fold_list(inputs.test_list), cell.shot, novel).items()}
    tester = Tester(settings, base, method, source, reader, names, torch.from_numpy(vectors))
    for one in rounds:
        episodes = read_manifest(one.manifest)
        records = _records(one, method_name, settings, inputs.features)
        counts = tester.count(episodes, records, f"evaluate {cell.method} fold {cell.fold} {cell.shot}-shot, seed {one.seed}")
        payload = _payload(settings, cell, method_name, experiment, one.seed, counts, dropped, len(episodes)) | {"precision": numbers}
        write_json(one.out, payload, one.provenance)
    for first in rounds[:1]:
        again = _records(first, method_name, settings, inputs.features)
        few = source if again is None else source.only(base.backbone.mid_blocks)
        _draw(first, method, base, few, reader, names, torch.from_numpy(vectors), settings.pixels.size, again)


def _draw(
    one: Round,
    method: Method,
    base: BaseLearner,
    source: Source,
    reader: Reader,
    names: Sequence[str],
    vectors: Tensor,
    size: int,
    records: EpisodeRecords | None,
) -> None:
    """Draw a few episodes of a round beside its metric file. What goes wrong with that stops no test."""
    episodes = read_manifest(one.manifest)

    def predict(place: int, shape: tuple[int, int]) -> dict[str, Pixels]:
        piece = episodes[place : place + 1]
        found = source.features(source.load(requests_of(piece)))
        record = None if records is None else {name: v.to(found.mask.device).float() for name, v in records.read([place]).items()}
        logits = method.predict(base.backbone, make_batch(piece, found, vectors, base.classes, record))
        placed = int(found.placed[0, 0]), int(found.placed[0, 1])
        back = {name: unfit(resize(values.float(), size)[0], placed, shape) for name, values in logits.items()}
        return {name: (both[1] > both[0]).cpu().numpy().astype(np.uint8) for name, both in back.items()}

    try:
        draw_overlays(one.out.parent / "overlays", episodes, predict, reader, names, one.out)
    except OSError as error:
        print(f"warning: {one.out.parent}: no pictures of episodes ({one_line(error)})", flush=True)
    if records is not None:
        records.close()


def _records(one: Round, method: str, settings: Settings, features: Path | None) -> EpisodeRecords | None:
    """A round's records, those parts that the method reads; None where it reads none or has none. Raises `UserError`."""
    parts = METHODS[method].records(settings) if one.records else ()
    if not parts:
        return None
    if features is None:
        raise UserError("--records: found without --features, the cache that they were made from; give both")
    if missing := [part for part in parts if part not in one.records]:
        raise UserError(f"seed {one.seed}: no records of part {missing[0]}, which {method} reads with these settings")
    return EpisodeRecords({part: one.records[part] for part in parts}, one.manifest, features)


@dataclass(frozen=True)
class Tester:
    """What tests one round after another. names: of the classes, index 1 first; vectors [classes, T]."""

    settings: Settings
    base: BaseLearner
    method: Method
    source: Source
    reader: Reader
    names: Sequence[str]
    vectors: Tensor

    def count(self, episodes: Sequence[Episode], records: EpisodeRecords | None, what: str) -> Counts:
        """The counts of a round, all scorings of the same predictions. what: the work, in words."""
        source = self.source if records is None else self.source.only(self.base.backbone.mid_blocks)

        def load(places: range) -> tuple[Any, dict[str, Tensor] | None, list[np.ndarray]]:
            piece = [episodes[i] for i in places]
            record = None if records is None else records.read(places)
            return source.load(requests_of(piece)), record, [_truth(self.reader, episode) for episode in piece]

        batch_size, size = self.settings.evaluate.batch_size, self.settings.pixels.size
        pieces = [range(i, min(i + batch_size, len(episodes))) for i in range(0, len(episodes), batch_size)]
        counts = Counts()
        work = ahead(load, ((episodes[p.start : p.stop], p) for p in pieces))
        for piece, (loaded, record, truth) in progress(work, len(pieces), what):
            found = source.features(loaded)
            on = None if record is None else {name: values.to(found.mask.device).float() for name, values in record.items()}
            batch = make_batch(piece, found, self.vectors, self.base.classes, on)
            classes = [self.names[episode.class_index - 1] for episode in piece]
            for output, logits in self.method.predict(self.base.backbone, batch).items():
                full = resize(logits.float(), size)  # once for all scorings
                counts.add_padded(output, full, batch.query_mask, classes)
                counts.add_original(output, full, truth, found.placed, size, classes)
        if records is not None:
            records.close()
        return counts


def _load(method: Method, model: Path | None, name: str, shot: int, settings: Settings) -> None:
    """Load the weights of `model`, if it is the method, for these shots and of these settings. Raises `UserError`."""
    if model is None:
        raise UserError(f"method {name} is trained: evaluation needs its model file")
    tensors, meta, _ = load_tensors(model, "train")
    if (meta["method"], meta["shots"]) != (name, shot):
        raise UserError(f"{model}: holds {meta['method']} for {meta['shots']} shots, expected {name} for {shot}")
    own = settings.model.model_dump(mode="json") if "model" in METHODS[name].settings else None
    if own is not None and own != meta["model"]:
        wrong = [f"model.{key} {meta['model'].get(key)!r}, not {own[key]!r}" for key in own if meta["model"].get(key) != own[key]]
        raise UserError(f"{model}: was made with {', '.join(wrong)}; test it with the settings it was made with")
    try:
        load_exactly(method, tensors)
    except ValueError as error:
        raise UserError(f"{model}: does not fit {name} on this backbone: {one_line(error)}") from None


def _truth(reader: Reader, episode: Episode) -> np.ndarray:
    """The query's mask at original size, uint8 in {0, 1, 255}."""
    mask = reader.mask("test", episode.query)
    return np.where(mask == 255, 255, mask == episode.class_index).astype(np.uint8)


def _payload(
    settings: Settings, cell: Cell, method: str, experiment: str, seed: int, counts: Counts, dropped: dict[str, str], episodes: int
) -> dict[str, Any]:
    names = class_names(settings.data.classes)
    protocol = settings.protocol.model_dump(mode="json") | {"image_size": settings.pixels.size}
    scored = {scoring: counts.of(scoring) for scoring in SCORINGS}
    return {
        "cell": {"experiment": experiment, **cell.as_dict(), "seed": seed},
        "variant": settings.model.variant if "model" in METHODS[method].settings else "",
        "protocol": protocol,
        "protocol_stamp": protocol_stamp(protocol),
        "classes": [names[c - 1] for c in novel_classes(cell.fold, len(names), settings.data.folds, settings.protocol.split)],
        "outputs": {output: {scoring: scored[scoring][output] for scoring in scored} for output in scored["padded"]},
        "left_out": dropped,
        "episodes": episodes,
    }
