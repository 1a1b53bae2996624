"""The command that segments one's own pictures."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from symnet.cli.app import RESULTS, Device, Threads, app
from symnet.cli.jobs import shared_root, use_device
from symnet.errors import UserError


@app.command(rich_help_panel=RESULTS)
def predict(
    model: Annotated[Path, typer.Option(help="A finished run: results/NAME/DATASET/BACKBONE/foldN/ROW/shotK.")],
    support: Annotated[list[str], typer.Option(help="IMAGE:MASK, a picture and where its object is; once for each shot.")],
    query: Annotated[list[Path], typer.Option(help="A picture to segment; may be given several times.")],
    word: Annotated[str, typer.Option("--class", help="The object, in a word: one of the run's classes, or any its word vectors know.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("predictions"),
    value: Annotated[int | None, typer.Option(min=1, max=255, help="The object's value in the masks, where they hold several.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Also a sheet of what the model saw: prior, regions, correlations.")] = False,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Segment pictures of your own: OUT/OUTPUT/NAME.mask.png (0 and 255, of the picture's size), .soft.png and .overlay.png.

    A mask is white on black, or an index PNG. EXIF rotation is honoured, in supports and queries.

    Example: symnet predict --model results/demo/shapes/efficientnet_lite0/fold0/symnet/shot1 --support dog.jpg:dog-mask.png
    --query a.jpg --query b.jpg --class dog --explain
    """
    from PIL import Image

    from symnet.pictures import overlay, read_drawn_mask, read_picture, save_picture, sheet
    from symnet.predict import Predictor, Support, as_mask, find_run

    pairs = [_pair(one) for one in support]
    if twice := [path.stem for i, path in enumerate(query) if path.stem in [other.stem for other in query[:i]]]:
        raise UserError(f"--query: two pictures are called {twice[0]}, and their results would be; rename one, or ask in two calls")
    supports = [Support(read_picture(image), as_mask(read_drawn_mask(mask, image), str(mask), value)) for image, mask in pairs]
    pictures = [read_picture(path) for path in query]
    predictor = Predictor(find_run(model), len(supports), use_device(device, threads), shared_root())
    if predictor.seen(word):
        print(f"note: {word} is a base class of this run: it was trained on it, so this is no few-shot segmentation")
    for (path, _), one in zip(pairs, supports, strict=True):
        save_picture(out / "supports" / f"{path.stem}.overlay.png", overlay(one.image, one.mask))
    found = predictor.predict(supports, pictures, word, explain)
    for path, image, prediction in zip(query, pictures, found, strict=True):
        for output, soft in prediction.soft.items():
            mask = prediction.mask(output)
            save_picture(out / output / f"{path.stem}.mask.png", Image.fromarray(255 * mask))
            save_picture(out / output / f"{path.stem}.soft.png", Image.fromarray((255 * soft).round().astype(np.uint8)))
            save_picture(out / output / f"{path.stem}.overlay.png", overlay(image, mask))
            print(f"{path}, {output}: {100 * mask.mean():.1f} % of the picture: {out / output / path.stem}.overlay.png", flush=True)
        if explain:
            save_picture(out / "explain" / f"{path.stem}.png", sheet(image, prediction.explained | prediction.soft))
            print(f"{path}, what the model saw: {out / 'explain' / path.stem}.png", flush=True)


def _pair(text: str) -> tuple[Path, Path]:
    """`IMAGE:MASK` as two paths. Raises `UserError`."""
    image, colon, mask = text.rpartition(":")
    if not (image and colon and mask):
        raise UserError(f"--support: found '{text}', expected IMAGE:MASK")
    return Path(image), Path(mask)
