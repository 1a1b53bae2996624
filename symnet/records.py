"""Episode records in HDF5: what of a test episode no trained weight changes, computed once for all rows and models that it tests.

A record set is a manifest (a JSON artifact, the declared output) and `symnet.shards` beside it, of one part (model/episode.py) and one
round: a row an episode, in their order. It is made from a fold's cache of test features and read beside it: mid features and masks, the
rest of what a head needs, are not kept twice.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from symnet.arrange import arranged, episode_masks, requests_of
from symnet.artifacts import digest, write_json
from symnet.backbones.base import side as side_at_stride_8
from symnet.base_learner import BaseLearner, load_base
from symnet.cells import Round
from symnet.config import Settings
from symnet.data.episodes import Episode, read_manifest
from symnet.errors import UserError
from symnet.features import as_numbers
from symnet.model.episode import TDC, levels_of, prior_record, tdc_record
from symnet.model.resize import default_scales
from symnet.shards import Columns, remove_others, write_shards
from symnet.sources import CacheSource

BATCH = 8  # episodes that are computed together
PER_SHARD = 32  # batches: a killed run loses no more


def make_records(
    settings: Settings, part: str, rounds: Sequence[Round], base_file: Path, features: Path, device: torch.device, what: str = "records"
) -> None:
    """Write the record sets of a part, one a round. features: the cache of the fold's test images; what: the work, in words.

    Raises `UserError` for files of another backbone, and for numbers that `features.dtype` cannot hold.
    """
    base = load_base(base_file).to(device)
    if base.name != settings.backbone.name:
        raise UserError(
            f"{base_file}: its backbone is {base.name}, backbone.name is {settings.backbone.name}; set that, or give another file"
        )
    source = CacheSource(features, device)
    if part == TDC:
        source = source.only(range(len(source.cache.shapes)))  # no base logits
    columns = partial(_columns, settings, part, base, source)
    for one in rounds:
        key = digest([one.provenance.settings, one.provenance.code, one.provenance.inputs, part])[:12]
        episodes = read_manifest(one.manifest)
        batches = [episodes[i : i + BATCH] for i in range(0, len(episodes), BATCH)]
        shards = write_shards(one.out, key, batches, _load(source), columns, PER_SHARD, f"{what} {part}, seed {one.seed}")
        write_json(one.out, {"part": part, "episodes": len(episodes), "dtype": settings.features.dtype, "shards": shards}, one.provenance)
        remove_others(one.out, key)


def _load(source: CacheSource) -> Callable[[Sequence[Episode]], dict[str, Tensor]]:
    """What reads the rows of episodes."""
    return lambda episodes: source.load(requests_of(episodes))


@torch.no_grad()
def _columns(
    settings: Settings, part: str, base: BaseLearner, source: CacheSource, episodes: Sequence[Episode], loaded: dict[str, Tensor]
) -> Columns:
    """A record's columns of some episodes, of what was loaded of them."""
    found = source.features(loaded)
    query, support = arranged(episodes, found.maps)
    _, mask = episode_masks(episodes, found.mask)
    if part == TDC:
        record = tdc_record(query, support, mask)
    else:
        assert found.base is not None
        scales = default_scales(side_at_stride_8(settings.pixels.size))
        levels = levels_of(base.backbone, part, query, support, mask)
        record = prior_record(part, *levels, mask, found.base[: len(episodes)], scales, base_head=base.head)
    return {name: as_numbers(values, settings.features.dtype, f"records, {name}") for name, values in record.items()}
