"""The commands that segment one's own pictures: files, and a page in the browser."""

from pathlib import Path
from typing import Annotated

import typer

from symnet.cli.app import PICTURES, Device, DryRun, Threads, app
from symnet.cli.jobs import preview, shared_root, use_device
from symnet.errors import UserError

Model = Annotated[Path, typer.Option(help="A finished run: results/NAME/DATASET/BACKBONE/foldN/ROW/shotK.")]


@app.command(rich_help_panel=PICTURES)
def predict(
    model: Model,
    support: Annotated[list[str], typer.Option(help="IMAGE:MASK, a picture and where its object is; once for each shot.")],
    query: Annotated[list[Path], typer.Option(help="A picture to segment; may be given several times.")],
    word: Annotated[str, typer.Option("--class", help="The object, in a word: one of the run's classes, or any its word vectors know.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("predictions"),
    value: Annotated[int | None, typer.Option(min=1, max=255, help="The object's value in the masks, where they hold several.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Also a sheet of what the model saw: prior, regions, correlations.")] = False,
    device: Device = "auto",
    threads: Threads = 1,
    dry_run: DryRun = False,
) -> None:
    """Segment pictures of your own: OUT/OUTPUT/NAME.mask.png (0 and 255, of the picture's size), .soft.png and .overlay.png.

    A mask is white on black, or an index PNG. EXIF rotation is honoured, in supports and queries.

    Example: symnet predict --model results/demo/shapes/efficientnet_lite0/fold0/symnet/shot1 --support dog.jpg:dog-mask.png
    --query a.jpg --query b.jpg --class dog --explain
    """
    from symnet.pictures import overlay, read_drawn_mask, read_picture, save_picture, sheet, shown
    from symnet.predict import Predictor, Support, as_mask, find_run

    pairs = [_pair(one) for one in support]
    if twice := [path.stem for i, path in enumerate(query) if path.stem in [other.stem for other in query[:i]]]:
        raise UserError(f"--query: two pictures are called {twice[0]}, and their results would be; rename one, or ask in two calls")
    if dry_run:
        preview([model, *(path for pair in pairs for path in pair), *query], [out])
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
            for kind, picture in shown(image, soft, mask).items():
                save_picture(out / output / f"{path.stem}.{kind}.png", picture)
            print(f"{path}, {output}: {100 * mask.mean():.1f} % of the picture: {out / output / path.stem}.overlay.png", flush=True)
        if explain:
            save_picture(out / "explain" / f"{path.stem}.png", sheet(image, prediction.explained | prediction.soft))
            print(f"{path}, what the model saw: {out / 'explain' / path.stem}.png", flush=True)


@app.command(rich_help_panel=PICTURES)
def web(
    model: Model,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    host: Annotated[str, typer.Option(help="Address to listen on. Whoever reaches another than loopback may use the model.")] = "127.0.0.1",
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Try a run on pictures of your own in the browser: drop a support, paint its mask or drop it, drop queries.

    Nothing is stored, and nothing leaves this machine. From elsewhere: ssh -L 7860:127.0.0.1:7860 HOST.

    Example: symnet web --model results/demo/shapes/efficientnet_lite0/fold0/symnet/shot1
    """
    from symnet.predict import Predictor, find_run

    try:
        from symnet.web.server import serve
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing: the page is an extra, pip install -e '.[web]'") from None
    run = find_run(model)
    serve(Predictor(run, run.cell.shot, use_device(device, threads), shared_root()), host, port)


def _pair(text: str) -> tuple[Path, Path]:
    """`IMAGE:MASK` as two paths. Raises `UserError`."""
    image, colon, mask = text.rpartition(":")
    if not (image and colon and mask):
        raise UserError(f"--support: found '{text}', expected IMAGE:MASK")
    return Path(image), Path(mask)
