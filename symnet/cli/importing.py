"""The command that turns the authors' checkpoints into our files."""

from pathlib import Path
from typing import Annotated

import typer

from symnet.cli.app import LEARN, Dataset, DryRun, Set, app
from symnet.cli.jobs import experiment_with, preview
from symnet.stages import module_hash


@app.command(rich_help_panel=LEARN)
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="Checkpoint of the released Sym-Net, or of a fold's PSPNet base learner (torch.save).")],
    fold: Annotated[int | None, typer.Option(min=0, help="Its fold; left out: what `split0` or `fold0` in the path says.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; left out: a folder beside FILE, of its name.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Experiment file that says which classes there are; left out: PASCAL-5i or COCO-20i.")
    ] = None,
    dataset: Dataset = "pascal5i",
    set_: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Turn an authors' checkpoint into files that `symnet evaluate` runs: base.safetensors and, of a Sym-Net, model.safetensors.

    Example: symnet import-checkpoint train_epoch_142_0.7142.pth --fold 0 --out imported
    """
    from symnet.data.classes import class_names
    from symnet.importing import Classes, import_checkpoint

    folder = out or file.with_suffix("")
    if dry_run:
        preview([file, config], [folder / "base.safetensors", folder / "model.safetensors"])
    classes = None
    if config is not None:
        settings = experiment_with(config, set_).settings(dataset)
        classes = Classes(class_names(settings.data.classes), settings.data.folds, settings.protocol.split, dataset)
    found = import_checkpoint(file, folder, fold, classes, module_hash("symnet.importing"))
    shots = f", {found.shots} shot" if found.shots else ""
    of_fold = ", of an unknown fold: fit to be tested, give --fold to train on it" if found.fold is None else f" of fold {found.fold}"
    print(f"{file}: {found.kind} of {found.backbone}{shots}, {found.base_classes} base classes{of_fold}")
    print("\n".join(f"wrote {path}" for path in found.files))
