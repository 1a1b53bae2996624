"""What is timed of training as a whole: images read from their store, augmented, and all that a step makes of them."""

from collections.abc import Iterator
from itertools import count

from symnet.arrange import requests_of
from symnet.bench import plainly, twins
from symnet.bench.material import Disk, Material
from symnet.bench.timing import Case, Values
from symnet.data.episodes import TrainingEpisodes
from symnet.gradients import Gradients
from symnet.image_sources import DeviceImageSource, ImageSource
from symnet.parallel import ALONE
from symnet.precision import answering, precision_of, to_channels_last
from symnet.prefetch import Stall
from symnet.trainer import Trainer


def training_loop(material: Material, disk: Disk, shots: int) -> Case:
    """Steps as `symnet train` runs them on a GPU, `Sizes.looped` a call: of the first, up to three are loaded already.

    The twin's step begins with reading and augmenting on the host. What is compared is what both make of the files: the step itself is
    in other cases.
    """
    device, train = material.device, material.settings.train
    precision, on_gpu = precision_of("auto", device), device.type == "cuda"
    base = answering(material.base, precision.frozen, on_gpu)
    method, plain_method = material.method(shots), material.method(shots)
    if on_gpu:
        to_channels_last(method)
    method.dtype = precision.trained
    trainer, plain_trainer = (Trainer(one, material.settings, steps=1 << 20) for one in (method, plain_method))
    source = DeviceImageSource(material.settings, disk.stored, "train", base, device)
    host = ImageSource(material.settings, disk.stored, "train", base, device)
    episodes = TrainingEpisodes(disk.train, shots, train.seed, "image")
    gradients = Gradients(trainer, base, source, episodes, material.vectors, train, ALONE, Stall(device), None)
    steps = count()

    def fast() -> None:
        for _ in range(material.sizes.looped):
            gradients.gather()
            trainer.advance()

    def plain() -> None:
        step = next(steps)
        wanted = [episodes[step * train.batch_size + i] for i in range(train.batch_size)]
        columns = host.send(host.load(requests_of(wanted, (train.seed, step))))
        batch = plainly.batch_of(material, wanted, columns["images"], columns["mask"])
        parts, _, _ = twins.losses(plain_method.head, plainly.inputs_of(material, batch, training=True), batch.query_mask)
        plain_method.head.objective(parts).backward()
        plain_trainer.advance()

    def compare() -> Iterator[tuple[Values, Values]]:
        requests = requests_of([episodes[i] for i in range(train.batch_size)], (train.seed, 0))
        yield source.send(source.load(requests)), host.send(host.load(requests))

    amount = train.batch_size
    name = f"train loop, {shots}-shot, with loading"
    return Case(name, "episodes", amount * material.sizes.looped, fast, plain, compare, tolerance=1e-3, by_plain=amount)
