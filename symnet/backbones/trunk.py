"""A network as far as the end of its third stage, for a method that trains a copy of it.

The copy is traced from the network's own forward, as `folded`'s is: every backbone has it, and entries keep their names.
"""

import copy
import re
from typing import Any, cast

from torch import fx, nn

from symnet.backbones.base import Backbone
from symnet.backbones.folded import Folded

# Parts of names of the second and third stage: of ResNets and VGG, and of EfficientNet-Lite0
_TUNED = re.compile(r"(?:^|\.)(?:layer[23]|_blocks\.(?:[3-9]|10))\.")


def trunk_of(backbone: Backbone) -> fx.GraphModule:
    """A copy in float32: images [B, 3, S, S] -> the third stage's last block map [B, C, H, W], before its last ReLU.

    The convolutions of the second and third stage can be trained; batch norm, stem and first stage cannot. The fourth stage is left out.
    """
    network = copy.deepcopy(backbone.plain if isinstance(backbone, Folded) else backbone)
    tracer = fx.Tracer()
    tracer.traced_func_name = "until_last"
    trunk = fx.GraphModule(network, tracer.trace(network))
    output = trunk.graph.output_node()
    (maps, _), *_ = cast(Any, output.args)  # the block maps, and what enters the fourth stage
    output.args = (maps[-1],)
    trunk.graph.eliminate_dead_code()
    trunk.delete_all_unused_submodules()
    trunk.recompile()
    trunk.requires_grad_(False)
    for name, module in trunk.named_modules():
        if isinstance(module, nn.Conv2d) and _TUNED.search(name):
            module.requires_grad_(True)
    assert any(p.requires_grad for p in trunk.parameters()), f"{type(network).__name__}: no convolution is of a layer2 or layer3"
    return trunk
