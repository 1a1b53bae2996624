"""CyCTR's transformer, which QPENet takes over: two layers of deformable self-attention in the query and of cycle-consistent attention."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from symnet.model.cycle import CycleAttention, Sampled, sample, shuffled, with_both_kinds
from symnet.model.deformable import DeformableAttention, sine_positions

LAYERS = 2
EACH = 300  # positions of each kind, a shot
Sampling = Literal["random", "first"]

# The beginnings of its names in the released code of both methods, and behind their doors.
RELEASED = (
    ("transformer.level_embed", "method.head.transform.level"),
    ("transformer.cross_layers.{}.q_fc.", "method.head.transform.layers.{}.across.query."),
    ("transformer.cross_layers.{}.k_fc.", "method.head.transform.layers.{}.across.key."),
    ("transformer.cross_layers.{}.v_fc.", "method.head.transform.layers.{}.across.value."),
    ("transformer.cross_layers.{}.proj.", "method.head.transform.layers.{}.across.project."),
    ("transformer.qry_self_layers.{}.sampling_offsets.", "method.head.transform.layers.{}.own.offsets."),
    ("transformer.qry_self_layers.{}.attention_weights.", "method.head.transform.layers.{}.own.weights."),
    ("transformer.qry_self_layers.{}.value_proj.", "method.head.transform.layers.{}.own.value."),
    ("transformer.qry_self_layers.{}.output_proj.", "method.head.transform.layers.{}.own.project."),
    *((f"transformer.ffns.{n}.layers.0.0.", f"method.head.transform.layers.{n // 2}.feed.{n % 2}.widen.") for n in range(4)),
    *((f"transformer.ffns.{n}.layers.1.", f"method.head.transform.layers.{n // 2}.feed.{n % 2}.narrow.") for n in range(4)),
    *((f"transformer.layer_norms.{n}.", f"method.head.transform.layers.{n // 4}.norm.{n % 4}.") for n in range(8)),
)


class Trace(NamedTuple):
    """What a layer found, before it was added: of the self-attention and of the cross-attention."""

    own: Tensor  # [B, H, W, C]
    across: Tensor  # [B, H, W, C]
    inconsistent: Tensor  # [B, h, M] bool


class FeedForward(nn.Module):
    """Three times as wide inside, no biases, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(channels, 3 * channels, bias=False), nn.Linear(3 * channels, channels, bias=False)
        self.drop_inner, self.drop = nn.Dropout(0.1), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return x + self.drop(self.narrow(self.drop_inner(self.widen(x).relu())))


class Layer(nn.Module):
    """Self-attention, feed-forward, cross-attention, feed-forward, each followed by layer norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.own, self.drop = DeformableAttention(channels), nn.Dropout(0.1)
        self.across = CycleAttention(channels)
        self.feed = nn.ModuleList(FeedForward(channels) for _ in range(2))
        self.norm = nn.ModuleList(nn.LayerNorm(channels) for _ in range(4))

    def forward(self, x: Tensor, places: Tensor, support: Tensor, sampled: Sampled) -> tuple[Tensor, Trace]:
        """x [B, H, W, C], places [H, W, C], support [B, M, C] -> the same x, refined."""
        own = self.own(x, x + places)
        x = self.norm[1](self.feed[0](self.norm[0](x + self.drop(own))))
        across, wrong = self.across(x, support, sampled)
        return self.norm[3](self.feed[1](self.norm[2](x + across))), Trace(own, across, wrong)


class CycleTransformer(nn.Module):
    """Two layers over query maps, with sampled support positions as keys.

    `EACH` foreground and background positions a shot are sampled; in training that number times a factor drawn for each episode and layer.
    In a test the sample is a function of the episode's support masks (`cycle.shuffled`): the same in any batch. sampling `first`: those
    that come first, as many in training. slip: see `cycle.sample`.
    """

    def __init__(self, channels: int, sampling: Sampling, slip: bool) -> None:
        super().__init__()
        self.sampling, self.slip = sampling, slip
        self.level = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, channels)))
        self.layers = nn.ModuleList(Layer(channels) for _ in range(LAYERS))

    def forward(self, query: Tensor, support: Tensor, foreground: Tensor) -> tuple[Tensor, list[Trace]]:
        """query [B, C, H, W], support [B, K, C, H, W], foreground bool [B, K, H, W] -> query maps [B, C, H, W]; what each layer found."""
        x = query.permute(0, 2, 3, 1)  # [B, H, W, C]
        tokens = support.permute(0, 1, 3, 4, 2).flatten(1, 3)  # [B, N, C]
        shots, inside = foreground.shape[1], with_both_kinds(foreground).flatten(1)  # [B, N]
        height, width, channels = x.shape[1:]
        places = sine_positions(height, width, channels, x.device) + self.level
        sampled, traces = None, []
        for layer in self.layers:
            if sampled is None or self.training:
                sampled = self._sample(inside, shots)
            chosen = tokens.gather(1, sampled.places.unsqueeze(2).expand(-1, -1, tokens.shape[2]))  # [B, M, C]
            x, trace = layer(x, places, chosen, sampled)
            traces.append(trace)
        return x.permute(0, 3, 1, 2), traces

    def _sample(self, inside: Tensor, shots: int) -> Sampled:
        """Of the N positions of the shots, bool [B, N]."""
        batch, count = inside.shape
        each, most = inside.new_full((batch, 1), EACH * shots, dtype=torch.int64), EACH * shots
        if self.sampling == "first":
            keys = torch.arange(count, device=inside.device).expand(batch, -1)
        elif self.training:
            low, high = (0.6, 4.0) if shots == 1 else (0.6, 1.4)
            each = (each * torch.empty(each.shape, device=inside.device).uniform_(low, high)).long()
            # room for what this batch draws; to ask that of a GPU would wait for it: there it is for the most that can be drawn
            most = int(each.max()) if inside.device.type == "cpu" else int(most * high)
            keys = torch.randint(1 << 32, inside.shape, device=inside.device)
        else:
            keys = shuffled(inside)
        return sample(inside, keys, each, min(count, 2 * most), self.slip)
