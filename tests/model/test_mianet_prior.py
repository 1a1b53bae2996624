"""HPM against golden priors of the released MIANet, with stand-in weights made from the entries' names."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from symnet.backbones.base import load_exactly
from symnet.backbones.loading import build_backbone
from symnet.model.prior import hpm
from symnet.model.resize import resize_mask


def test_hpm_of_every_scale(reference: ModuleType, shared: Path) -> None:
    golden = shared / "methods" / "golden" / "MIANet"
    told = json.loads((golden / "golden_1shot.json").read_text())
    names = [(name, shape) for name, shape in reference.read_keys(golden / "released_state_dict.tsv") if name.startswith("layer")]
    backbone = build_backbone("resnet50").eval()
    load_exactly(backbone, {name: torch.as_tensor(reference.tensor(name, shape)) for name, shape in names})
    episode = {k: torch.as_tensor(v) for k, v in reference.episode(told["size"], told["shot"], told["batch"], told["seed"]).items()}
    with torch.no_grad():
        query, support = (backbone.levels(backbone(images)).high for images in (episode["query"], episode["support"][:, 0]))
    mask = resize_mask(episode["support_mask"] == 1, query.shape[-1])
    ours = hpm(query, support.unsqueeze(1), mask, told["scales"])
    with np.load(golden / "golden_1shot.npz") as arrays:
        errors = [np.abs(prior.numpy() - arrays[f"prior_{i}"]).max() for i, prior in enumerate(ours)]
    assert max(errors) < 5e-5, errors
