"""What is timed of the parts: SPM, TDC, means and triplet, resizing, counting; and reading, from the store and from the cache."""

from collections.abc import Callable
from itertools import cycle

import torch
from torch import Tensor

from symnet.arrange import make_batch, requests_of
from symnet.bench import twins
from symnet.bench.material import BASE_CLASSES, Disk, Material
from symnet.bench.timing import Case, Values, numbered
from symnet.data.readers import Reader
from symnet.features import FIXED, compute, make_view
from symnet.model.correlation import correlation_maps
from symnet.model.prior import spm
from symnet.model.prototypes import Regions, query_regions
from symnet.model.resize import resize
from symnet.model.triplet import co_triplet
from symnet.runtime import send
from symnet.scoring import Counts, lead_of


def prior(material: Material) -> Case:
    """SPM, collapsed; the twin multiplies all regions with all. 1 shot."""
    blocks = blocks_of(material, [material.backbone.high_channels])
    query, support, mask = blocks[0][0].relu(), blocks[1][0].relu(), blocks[2]
    fast, plain = ((lambda way=way: {"prior": way(query, support, mask)}) for way in (spm, twins.spm))
    return Case("SPM", "episodes", material.sizes.batch, fast, plain)


def correlations(material: Material) -> Case:
    """TDC's correlation maps; the twin takes pair by pair. 1 shot."""
    blocks = blocks_of(material, material.backbone.block_channels)
    fast, plain = ((lambda way=way: {"maps": way(*blocks)}) for way in (correlation_maps, twins.correlation_maps))
    return Case("TDC correlations", "episodes", material.sizes.batch, fast, plain)


def regions_and_triplet(material: Material) -> Case:
    """Masked means of the query and the co-triplet loss, with their gradients. 5 shots."""
    batch, channels, side, device, shots = material.sizes.batch, material.sizes.channels, material.side, material.device, 5
    anchors = torch.randn(2, batch, channels, device=device)
    query = torch.randn(batch, channels, side, side, device=device, requires_grad=True)
    support = torch.randn(batch, shots, channels, side, side, device=device, requires_grad=True)
    high = torch.rand(batch, side, side, device=device)
    foreground = torch.rand(batch, shots, side, side, device=device) < 0.3
    s = material.settings.model
    taus = (s.tau1, s.tau2, s.tau3, s.tau4)

    def values(regions: Regions, loss: Tensor) -> Values:
        found = torch.autograd.grad(loss + torch.stack(regions).square().sum(), (query, support))
        return {"loss": loss, "regions": torch.stack(regions)} | numbered("gradient", found)

    def fast() -> Values:
        regions = query_regions(query, high, *taus)
        return values(regions, co_triplet(anchors[0], regions, anchors[1], support, foreground))

    def plain() -> Values:
        regions = twins.region_means(query, high, taus)
        return values(regions, twins.co_triplet(anchors[0], regions, anchors[1], support, foreground))

    return Case("masked means + triplet", "episodes", batch, fast, plain)


def resizing(material: Material) -> Case:
    """A batch's coarse decoder scales to the features' side, and its logits to the images', with gradients."""
    batch, side, device = material.sizes.batch, material.side, material.device
    scales = material.method(1).head.decode.scales[1:]
    shapes = [*((material.sizes.channels, scale, side) for scale in scales), (2, side, material.sizes.size)]
    maps = [torch.randn(batch, channels, own, own, device=device, requires_grad=True) for channels, own, _ in shapes]
    weights = [torch.randn(batch, channels, size, size, device=device) for channels, _, size in shapes]

    def values(way: Callable[[Tensor, int], Tensor]) -> Values:
        resized = [way(x, size) for x, (_, _, size) in zip(maps, shapes, strict=True)]
        return numbered("resized", resized) | numbered("gradient", torch.autograd.grad(resized, maps, weights))

    return Case("bilinear resize + gradient", "episodes", batch, lambda: values(resize), lambda: values(twins.resize))


def counting(material: Material) -> Case:
    """Logits to the images' side, and pixels counted."""
    masks = material.masks(material.sizes.batch)
    truth = torch.where(masks == 255, 255, (masks > 0).to(torch.uint8))
    logits = torch.randn(len(truth), 2, material.side, material.side, device=material.device)
    classes = [1] * len(truth)

    def fast() -> Values:
        counts = Counts(["meta"], len(truth), material.device)
        counts.add(lead_of(logits).unsqueeze(1), truth, classes, range(len(truth)))
        found = counts.of("padded")["meta"]
        return {"counts": torch.tensor([found[key] for key in range(len(truth))])}

    return Case("upsampling + counting", "episodes", len(truth), fast, lambda: {"counts": twins.confusion(logits, truth).cpu()})


def store_read(disk: Disk) -> Case:
    """Images and masks from the store; the twin decodes their files. One process, the files in memory."""

    def reading(reader: Reader) -> Callable[[], Values]:
        images = cycle(disk.images)

        def read() -> Values:
            image, mask = reader.load("test", next(images))
            return {"image": torch.from_numpy(image), "mask": torch.from_numpy(mask)}

        return read

    return Case("image store read", "images", 1, reading(disk.stored), reading(disk.files))


def cache_read(material: Material, disk: Disk) -> Case:
    """Block maps of an image from the HDF5 cache, as float32; the twin passes the decoded image through the backbone."""
    ours, theirs = cycle(disk.images), cycle(disk.images)

    def fast() -> Values:
        read = disk.cache.read([disk.cache.rows[next(ours), FIXED]], ["maps", "base"])
        maps = [m.to(material.device) for m in disk.cache.split(read["maps"])]
        return numbered("map", maps) | {"base": read["base"]}

    def plain() -> Values:
        view = make_view(material.settings, disk.stored, "test", (next(theirs), FIXED))
        maps, base = compute(material.base, [view], material.device)
        return numbered("map", maps) | {"base": base.cpu()}

    return Case("HDF5 cache read", "images", 1, fast, plain, tolerance=1e-3)  # the cache holds float16


def records_read(material: Material, disk: Disk) -> Case:
    """Records of a batch of one-shot episodes from HDF5, as float32 on the device; the twin makes them from the cache's features."""
    rows = range(material.sizes.batch)
    episodes = [disk.episodes[row] for row in rows]
    method = material.method(1).eval()

    def fast() -> Values:
        return {name: send(values, material.device).float() for name, values in disk.records.read(rows).items()}

    @torch.no_grad()
    def plain() -> Values:
        found = disk.source.features(disk.source.load(requests_of(episodes)))
        return method.record(material.backbone, make_batch(episodes, found, material.vectors, BASE_CLASSES))

    return Case("episode records read", "episodes", len(episodes), fast, plain, tolerance=1e-3)  # the records hold float16


def blocks_of(material: Material, channels: tuple[int, ...] | list[int]) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Block maps of queries [B, C, H, W] and supports [B, 1, C, H, W] at these channels, a mask [B, 1, H, W]: a quarter is 1."""
    batch, side, device = material.sizes.batch, material.side, material.device
    query = [torch.randn(batch, c, side, side, device=device) for c in channels]
    support = [torch.randn(batch, 1, c, side, side, device=device) for c in channels]
    mask = torch.zeros(batch, 1, side, side, device=device)
    mask[:, :, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1
    return query, support, mask
