"""The base learner against goldens of BAM's first stage (PSPNet whole, every parameter trained), with stand-in weights."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from symnet.backbones.loading import build_backbone
from symnet.importing import PSPNET
from symnet.model.base import PSPHead
from symnet.model.released import renamed
from symnet.model.segmentation import cross_entropy


def test_loss_and_every_gradient(reference: ModuleType, shared: Path) -> None:
    golden = shared / "methods" / "golden" / "BAM"
    told = json.loads((golden / "golden_base.json").read_text())
    state = reference.state_dict(golden / "released_state_dict_base.tsv")
    backbone = build_backbone("resnet50")
    whole = torch.nn.ModuleDict({"backbone": backbone, "head": PSPHead(backbone.high_channels, 16)}).eval()  # BN in eval, no dropout
    whole.load_state_dict({renamed(name, PSPNET): torch.as_tensor(value) for name, value in state.items()}, strict=True)
    episode = reference.episode(told["size"], told["shot"], told["batch"], told["seed"])
    logits = whole["head"](backbone.levels(backbone(torch.as_tensor(episode["query"]))).high)
    loss = cross_entropy(logits, torch.as_tensor(episode["base_mask"]))
    assert loss.item() == pytest.approx(told["losses"]["main"], rel=1e-5)
    loss.backward()
    theirs = {renamed(name, PSPNET): value for name, value in told["grad_norms"].items()}
    assert {name: p.grad.norm().item() for name, p in whole.named_parameters()} == pytest.approx(theirs, rel=1e-3)
    assert sum(p.numel() for p in whole.parameters()) == told["parameters"]["trainable"]
