"""Testing a method on a fold: one round of written episodes a seed, integer counts per class and per episode."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symnet.artifacts import file_digest, write_json
from symnet.backbones.base import load_exactly
from symnet.base_learner import load_base
from symnet.cells import Cell, Round, episodes_beside
from symnet.checkpoint import load_tensors
from symnet.config import Settings
from symnet.costs import Spent, write_spent
from symnet.data.classes import class_names
from symnet.data.episodes import Episode, left_out, read_manifest
from symnet.data.folds import novel_classes, read_fold_list
from symnet.data.images import Pixels
from symnet.data.readers import Reader, open_reader
from symnet.data.stored import Store
from symnet.data.transforms import fitted_size
from symnet.embeddings import read_embeddings
from symnet.episode_counts import counts_of, write_episode_counts
from symnet.errors import UserError, one_line
from symnet.feeding import feed
from symnet.methods import METHODS, method_class, own_settings
from symnet.methods.base import EpisodeBatch, Method
from symnet.metrics import protocol_stamp
from symnet.overlays import draw_overlays
from symnet.precision import answering, format_name, precision_of
from symnet.progress import progress
from symnet.recorded import EpisodeRecords, read_mixed
from symnet.scoring import Counts, Originals, foreground, unfitted, warp
from symnet.system import device_name, peak_memory
from symnet.testing import Tester, predicted, with_record

STAGE = "evaluate"
BATCHES = (8, 32)  # episodes a batch on a CPU and on a GPU
TRUTHS = 1024  # masks at original size that the host keeps, a third of a megabyte each


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
    """Run every round and write its metric file, and beside it what each episode gave (`symnet.episode_counts`), and what it took.

    All scorings are always computed, of the same predictions. `method_name` is the method behind the cell's row.
    """
    precision = precision_of(settings.evaluate.precision, device)
    recomputed = precision_of(settings.features.precision, device).frozen
    base = answering(load_base(inputs.base).to(device), recomputed, device.type == "cuda")
    if base.name != settings.backbone.name:
        raise UserError(
            f"{inputs.base}: its backbone is {base.name}, backbone.name is {settings.backbone.name}; set that, or give another file"
        )
    names, vectors = read_embeddings(inputs.embeddings)
    source = feed(method_name, settings, data_root, "test", inputs.features, base, device, inputs.store)
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
    test_list = read_fold_list(inputs.test_list)
    dropped = {names[c - 1]: reason for c, reason in left_out(test_list, cell.shot, novel).items()}
    records = _records(rounds, method_name, settings, inputs.features)
    blocks = method.blocks(base.backbone, bool(records))
    source = source if blocks is None else source.only(blocks)
    batch = settings.evaluate.batch_size or BATCHES[device.type == "cuda"]
    tester = Tester(base, method, source, torch.from_numpy(vectors), batch, bool(records))
    episodes = [read_manifest(one.manifest) for one in rounds]
    what = f"evaluate {cell.method} fold {cell.fold} {cell.shot}-shot, episodes"
    began = time.monotonic()
    counted = count(tester, episodes, records, reader, {row.image: (row.height, row.width) for row in test_list.rows}, what)
    seconds, read = time.monotonic() - began, "records" if records else "features" if inputs.features else "images"
    spent = Spent(device_name(device), read, sum(map(len, episodes)), seconds, peak_memory(device))
    for one, counts, tested in zip(rounds, counted, episodes, strict=True):
        found = counts_of(tested, names, method.outputs, counts)
        payload = _payload(settings, cell, method_name, experiment, one.seed, found.by_class(), dropped, len(tested)) | {
            "precision": numbers
        }
        write_json(one.out, payload, one.provenance)
        beside = one.provenance.model_copy(update={"inputs": one.provenance.inputs | {"metrics": file_digest(one.out)}})
        write_episode_counts(episodes_beside(one.out), found, beside)
    for first in rounds[:1]:
        write_spent(first.out, spent)
        _draw(first, tester, reader, names, records[:1])
    for opened in records:
        opened.close()


def _draw(one: Round, tester: Tester, reader: Reader, names: Sequence[str], records: Sequence[EpisodeRecords]) -> None:
    """Draw a few episodes of a round beside its metric file. What goes wrong with that stops no test. records: the round's, if any."""
    episodes = read_manifest(one.manifest)

    def predict(place: int, shape: tuple[int, int]) -> dict[str, Pixels]:
        found: dict[str, Pixels] = {}

        def use(_: list[int], batch: EpisodeBatch, record: dict[str, Tensor]) -> None:
            lead = predicted(tester.method, tester.base.backbone, with_record(batch, record) if records else batch)[0]  # [O, H, W]
            size = batch.query_mask.shape[-1]
            seen = foreground(unfitted(lead, size, fitted_size(*shape, size), shape))
            found.update(zip(tester.method.outputs, seen.to(torch.uint8).cpu().numpy(), strict=True))

        for _ in tester.run([episodes[place]], lambda _: read_mixed(records, [(0, place)]), use):
            pass
        return found

    try:
        draw_overlays(one.out.parent / "overlays", episodes, predict, reader, names, one.out)
    except OSError as error:
        print(f"warning: {one.out.parent}: no pictures of episodes ({one_line(error)})", flush=True)


def _records(rounds: Sequence[Round], method: str, settings: Settings, features: Path | None) -> list[EpisodeRecords]:
    """Each round's records, those parts that the method reads; none where it reads none or the rounds have none. Raises `UserError`."""
    parts = METHODS[method].records(settings) if any(one.records for one in rounds) else ()
    if not parts:
        return []
    if features is None:
        raise UserError("--records: found without --features, the cache that they were made from; give both")
    for one in rounds:
        if missing := [part for part in parts if part not in one.records]:
            raise UserError(f"seed {one.seed}: no records of part {missing[0]}, which {method} reads with these settings")
    return [EpisodeRecords({part: one.records[part] for part in parts}, one.manifest, features) for one in rounds]


def count(
    tester: Tester,
    rounds: Sequence[Sequence[Episode]],
    records: Sequence[EpisodeRecords],
    reader: Reader,
    sizes: Mapping[str, tuple[int, int]],
    what: str,
) -> list[np.ndarray]:
    """The counts of every round, int64 [scorings, outputs, episodes, 4] in the order of its episodes, all scorings of the same predictions.

    Rounds are tested together, so that an image's features serve all of them. records: of each round; none to compute what they hold.
    sizes: (height, width) of the images, of which those of one size are scored together; what: the work, in words.
    """
    order = sorted(
        ((number, place) for number, episodes in enumerate(rounds) for place in range(len(episodes))),
        key=lambda at: _near(rounds[at[0]][at[1]], sizes),
    )
    episodes = [rounds[number][place] for number, place in order]
    device = tester.source.device
    starts = list(accumulate(map(len, rounds), initial=0))
    counts = Counts(tester.method.outputs, starts[-1], device)  # an episode a key: 192 bytes of two outputs

    @lru_cache(TRUTHS)
    def truth(image: str) -> tuple[Tensor, Tensor]:
        mask = torch.from_numpy(reader.mask("test", image))
        return mask, warp(mask)

    def beside(places: list[int]) -> tuple[dict[str, Tensor], Originals]:
        record = read_mixed(records, [order[place] for place in places])
        return record, Originals.of([truth(episodes[place].query) for place in places], device)

    def use(places: list[int], batch: EpisodeBatch, found: tuple[dict[str, Tensor], Originals]) -> None:
        record, originals = found
        lead = predicted(tester.method, tester.base.backbone, with_record(batch, record) if records else batch)
        keys = [starts[number] + row for number, row in (order[place] for place in places)]
        counts.add(lead, batch.query_mask, [episodes[place].class_index for place in places], keys, originals)

    for _ in progress(tester.run(episodes, beside, use), len(episodes), what):
        pass
    return np.split(counts.fetched(), starts[1:-1], axis=2)


def _near(episode: Episode, sizes: Mapping[str, tuple[int, int]]) -> tuple[int, tuple[int, int], str]:
    """What neighbours in the order of testing have in common: a class shares its images, and a size is scored together."""
    return episode.class_index, sizes[episode.query], episode.query


def _load(method: Method, model: Path | None, name: str, shot: int, settings: Settings) -> None:
    """Load the weights of `model`, if it is the method, for these shots and of these settings. Raises `UserError`."""
    if model is None:
        raise UserError(f"method {name} is trained: evaluation needs its model file")
    tensors, meta, _ = load_tensors(model, "train")
    if (meta["method"], meta["shots"]) != (name, shot):
        raise UserError(f"{model}: holds {meta['method']} for {meta['shots']} shots, expected {name} for {shot}")
    own = own_settings(settings, name)
    if own is not None and own != meta["model"]:
        section = METHODS[name].settings[0]
        wrong = [f"{section}.{key} {meta['model'].get(key)!r}, not {own[key]!r}" for key in own if meta["model"].get(key) != own[key]]
        raise UserError(f"{model}: was made with {', '.join(wrong)}; test it with the settings it was made with")
    try:
        load_exactly(method, tensors)
    except ValueError as error:
        raise UserError(f"{model}: does not fit {name} on this backbone: {one_line(error)}") from None


def _payload(
    settings: Settings, cell: Cell, method: str, experiment: str, seed: int, scored: dict[str, Any], dropped: dict[str, str], episodes: int
) -> dict[str, Any]:
    names = class_names(settings.data.classes)
    protocol = settings.protocol.model_dump(mode="json") | {"image_size": settings.pixels.size}
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
