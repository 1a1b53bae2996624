"""Testing with images that stay on the device: how often each is made, with what memory, and that the counts are always the same."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from symnet import evaluate, testing
from symnet.arrange import make_batch, requests_of
from symnet.base_learner import BaseLearner, load_base
from symnet.data.episodes import Episode, make_manifest
from symnet.data.folds import read_fold_list
from symnet.data.readers import Reader, open_reader
from symnet.episode_counts import counts_of
from symnet.errors import UserError
from symnet.image_sources import ImageSource
from symnet.methods import method_class
from symnet.model.resize import resize
from symnet.order import images_of
from symnet.sources import CacheSource, Remembered, Source
from symnet.validation import Validation
from tests.bench import CPU, Bench

pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once

VECTORS = torch.nn.functional.normalize(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), dim=1)

NAMES = [f"class{index}" for index in range(1, 21)]


class Setting:
    """Two rounds of a fold's test episodes, their base learner, and a method that was not trained."""

    def __init__(self, bench: Bench, shots: int = 1, method: str = "symnet") -> None:
        self.bench, self.settings = bench, bench.settings("evaluate", "symnet")
        self.base: BaseLearner = load_base(bench.inputs.base).to(CPU)
        self.reader: Reader = open_reader(self.settings.data, self.settings.protocol, bench.root)
        self.list = read_fold_list(bench.list("test"))
        self.rounds = [make_manifest(self.list, shots, seed, 25, "image").episodes for seed in (5, 6)]
        self.images = set().union(*(images_of(episode) for episodes in self.rounds for episode in episodes))
        torch.manual_seed(3)
        self.method = method_class(method)(self.settings, self.base.backbone, shots, 8, 5).eval()

    def source(self, cached: bool) -> Source:
        if cached:
            return CacheSource(self.bench.root / "features_test.json", CPU)
        return ImageSource(self.settings, self.reader, "test", self.base, CPU)

    def tester(self, cached: bool = True, memory: int | None = None, batch: int = 8) -> testing.Tester:
        blocks = self.method.blocks(self.base.backbone, False)
        source = self.source(cached)
        return testing.Tester(self.base, self.method, source if blocks is None else source.only(blocks), VECTORS, batch, memory=memory)

    def count(self, tester: testing.Tester, rounds: Sequence[Sequence[Episode]] | None = None) -> list[dict[str, Any]]:
        sizes = {row.image: (row.height, row.width) for row in self.list.rows}
        rounds = self.rounds if rounds is None else rounds
        found = evaluate.count(tester, rounds, [], self.reader, sizes, "test")
        return [counts_of(own, NAMES, self.method.outputs, counts).by_class() for own, counts in zip(rounds, found, strict=True)]


@pytest.fixture
def setting(bench: Bench) -> Setting:
    return Setting(bench)


def watch_backbone(base: BaseLearner) -> list[int]:
    """The number of images of each forward to come."""
    seen: list[int] = []
    base.backbone.register_forward_pre_hook(lambda module, images: seen.append(len(images[0])))
    return seen


def plainly(setting: Setting, episodes: Sequence[Episode]) -> dict[str, dict[str, list[int]]]:
    """Padded counts, one episode after the other, nothing kept."""
    source, found = setting.source(True), {}
    for episode in episodes:
        batch = make_batch([episode], source.features(source.load(requests_of([episode]))), VECTORS, setting.base.classes)
        for output, logits in setting.method.predict(setting.base.backbone, batch).items():
            full = resize(logits, batch.query_mask.shape[-1])
            predicted, truth = (full[:, 1] > full[:, 0]), batch.query_mask
            row = found.setdefault(output, {}).setdefault(NAMES[episode.class_index - 1], [0] * 4)
            for i, (a, b) in enumerate(((1, 1), (1, 0), (0, 1), (0, 0))):
                row[i] += int(((predicted == a) & (truth == b)).sum())
    return found


@torch.no_grad()
def test_counts_are_those_of_one_episode_after_the_other_and_each_round_has_its_own(setting: Setting) -> None:
    both = setting.count(setting.tester())
    for found, episodes in zip(both, setting.rounds, strict=True):
        assert found["padded"] == plainly(setting, episodes)
    assert both[0] != both[1]
    assert setting.count(setting.tester(), [setting.rounds[1]]) == both[1:]


@pytest.mark.parametrize("shots", [1, 2])
@pytest.mark.parametrize("method", ["symnet", "prototype"])
def test_an_image_passes_the_backbone_once_for_all_rounds(bench: Bench, method: str, shots: int) -> None:
    """Counted work of a test without a cache: one row of the backbone an image, however many episodes show it."""
    setting = Setting(bench, shots, method)
    tester, seen = setting.tester(cached=False), watch_backbone(setting.base)
    found = setting.count(tester)
    assert sum(seen) == len(setting.images)
    assert max(seen) <= 8
    assert [{scoring: of.keys() for scoring, of in one.items()} for one in found] == [
        {scoring: set(setting.method.outputs) for scoring in ("padded", "original", "400")}
    ] * 2


def test_a_cache_is_read_once_an_image(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    plain = CacheSource.load
    monkeypatch.setattr(CacheSource, "load", lambda self, requests: (asked.extend(r.image for r in requests), plain(self, requests))[1])
    setting.count(setting.tester())
    assert sorted(asked) == sorted(setting.images)


def test_a_mask_is_decoded_once_a_query(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    plain = type(setting.reader).mask
    monkeypatch.setattr(type(setting.reader), "mask", lambda self, split, image: (asked.append(image), plain(self, split, image))[1])
    setting.count(setting.tester())
    assert sorted(asked) == sorted({episode.query for episodes in setting.rounds for episode in episodes})


def of_slots(monkeypatch: pytest.MonkeyPatch, most: int = 1 << 30) -> list[int]:
    """The numbers of slots that are asked for; more than `most` is more than memory has."""
    asked: list[int] = []
    plain = testing.Slots.__init__

    def init(self: testing.Slots, like: Any, kept_as: Any, count: int) -> None:
        asked.append(count)
        if count > most:
            raise torch.OutOfMemoryError("made up")
        plain(self, like, kept_as, count)

    monkeypatch.setattr(testing.Slots, "__init__", init)
    return asked


def test_little_memory_makes_images_again_and_changes_no_count(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = setting.count(setting.tester())
    asked, seen = of_slots(monkeypatch), watch_backbone(setting.base)
    found = setting.count(setting.tester(cached=False, memory=1 << 20))
    (slots,) = asked
    assert 2 <= slots < len(setting.images) / 2
    assert len(setting.images) < sum(seen) < 2 * 2 * 25
    for one, other in zip(found, expected, strict=True):
        assert one == other


def test_memory_does_not_grow_with_the_episodes(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = of_slots(monkeypatch)
    setting.count(setting.tester(memory=2 << 20))
    setting.count(setting.tester(memory=2 << 20), [*setting.rounds, *setting.rounds])
    assert asked[0] == asked[1] < len(setting.images)


def test_where_memory_was_overrated_there_are_fewer_slots(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = setting.count(setting.tester())
    asked = of_slots(monkeypatch, most=7)
    assert setting.count(setting.tester()) == expected
    count = len(setting.images)
    assert asked == [count >> i for i in range(len(asked))]
    assert asked[-2] > 7 >= asked[-1]


@pytest.mark.parametrize("broken", [1, 3, 6])
def test_memory_that_runs_out_in_a_batch_loses_and_doubles_none(setting: Setting, monkeypatch: pytest.MonkeyPatch, broken: int) -> None:
    expected = setting.count(setting.tester())
    tester, batches, plain = setting.tester(), [], setting.method.predict

    def predict(backbone: Any, batch: Any) -> Any:
        batches.append(len(batch.text))
        if len(batches) == broken:
            raise torch.OutOfMemoryError("made up")
        return plain(backbone, batch)

    monkeypatch.setattr(setting.method, "predict", predict)
    assert setting.count(tester) == expected
    assert batches[:broken] == [8] * broken
    assert set(batches[broken:-1]) == {4}


def test_what_cannot_be_done_at_all_is_told(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    of_slots(monkeypatch, most=0)
    with pytest.raises(UserError, match=r"cpu: no memory for the 2 images of one episode; lower pixels\.size"):
        setting.count(setting.tester())


def test_maps_lie_in_slots_as_the_cache_has_them(setting: Setting) -> None:
    """float16 where the cache is float16; they come back as the float32 that the source gives."""
    x = torch.randn(1, 3, 2, 2).half().float()
    slots = testing.Slots([x], [torch.float16], 4)
    slots.put([2, 0], [torch.cat([x, 2 * x])])
    at = torch.tensor([[0, 2], [2, 2]])
    assert slots._held[0].dtype == torch.float16
    assert torch.equal(slots.take(0, at), torch.stack([torch.cat([2 * x, x]), torch.cat([x, x])]))
    assert setting.source(True).kept_as == torch.float32  # this bench's cache


class Loads:
    """A source that tells the rows it reads."""

    def __init__(self, source: Source) -> None:
        self._source, self.read = source, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def load(self, requests: Sequence[Any]) -> Any:
        self.read += len(requests)
        return self._source.load(requests)

    def only(self, blocks: Sequence[int]) -> "Loads":
        self.chosen = Loads(self._source.only(blocks))
        return self.chosen


def distinct(episodes: Sequence[Episode]) -> int:
    """How many images they name, each once."""
    return len(set().union(*map(images_of, episodes)))


def test_a_second_validation_reads_nothing_and_finds_the_same(setting: Setting) -> None:
    source = Loads(setting.source(True))
    validation = Validation(setting.rounds[0], source, setting.base, VECTORS, 8)
    images = distinct(setting.rounds[0])
    first = validation.score(setting.method)
    assert (source.read, source.chosen.read) == (images, images)
    assert validation.score(setting.method) == first > 0
    assert (source.read, source.chosen.read) == (images, images)
    by_class = plainly(setting, setting.rounds[0])
    with torch.no_grad():
        assert first == max(100 * sum(t / (t + p + n) for t, p, n, _ in rows.values()) / len(rows) for rows in by_class.values())


def test_a_validation_without_room_reads_again_and_finds_the_same(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Validation(setting.rounds[0], setting.source(True), setting.base, VECTORS, 8).score(setting.method)
    monkeypatch.setattr("symnet.validation.free_memory", lambda device: 0)
    source = Loads(setting.source(True))
    validation = Validation(setting.rounds[0], source, setting.base, VECTORS, 8)
    assert validation.score(setting.method) == expected
    once = source.chosen.read
    assert once > distinct(setting.rounds[0])  # with slots for one episode some are read more than once
    assert validation.score(setting.method) == expected
    assert source.chosen.read == 2 * once  # nothing is remembered


def test_remembered_within_its_room(setting: Setting) -> None:
    source = Loads(setting.source(True))
    pieces = [requests_of([episode]) for episode in setting.rounds[0][:2]]
    sizes = [sum(x.nbytes for x in (*found.maps, found.base, found.mask)) for found in (source.features(source.load(p)) for p in pieces)]
    source.read = 0
    remembered = Remembered(source, sizes[0])
    found = [[remembered.features(remembered.load(piece)) for piece in pieces] for _ in range(2)]
    assert found[0][0] is found[1][0]
    assert source.read == 2 + 2 + 2  # the second had no room
    assert torch.equal(found[0][1].mask, found[1][1].mask)


def test_a_validation_short_of_memory_forgets_what_it_remembers_and_finds_the_same(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second score starts with all images remembered; what it lacks memory for it does in smaller batches, and reads again."""
    source, plain = Loads(setting.source(True)), setting.method.predict
    validation = Validation(setting.rounds[0], source, setting.base, VECTORS, 8)
    expected, read, batches = validation.score(setting.method), source.chosen.read, []

    def predict(backbone: Any, batch: Any) -> Any:
        batches.append(len(batch.text))
        if len(batches) == 2:
            raise torch.OutOfMemoryError("made up")
        return plain(backbone, batch)

    monkeypatch.setattr(setting.method, "predict", predict)
    assert validation.score(setting.method) == expected
    assert batches == [8, 8, 4, 4, 4, 4, 1]
    assert source.chosen.read > read


def test_a_first_image_that_is_too_large_is_told(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CacheSource, "features", lambda *_: raise_out_of_memory())
    with pytest.raises(UserError, match=r"cpu: no memory for the 2 images of one episode; lower pixels\.size"):
        Validation(setting.rounds[0], setting.source(True), setting.base, VECTORS, 8).score(setting.method)


def raise_out_of_memory() -> None:
    raise torch.OutOfMemoryError("made up")


def test_a_batch_size_that_is_given_is_taken(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = setting.method.predict
    monkeypatch.setattr(setting.method, "predict", lambda backbone, batch: (sizes.append(len(batch.text)), plain(backbone, batch))[1])
    setting.count(replace(setting.tester(), batch=5))
    assert sizes == [5] * 10
