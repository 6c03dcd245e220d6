"""How a member is made fast on a device, and what of it keeps float32."""

import torch
from torch import Tensor, nn

from cxr_ray.config.scoring import Precision
from cxr_ray.errors import ConfigError
from cxr_ray.models.member import Member


class InFloat32(nn.Module):
    """A layer that computes with float32 inside a block of automatic mixed precision."""

    def __init__(self, layer: nn.Module) -> None:
        """Wrap `layer`."""
        super().__init__()
        self.layer = layer

    def forward(self, values: Tensor) -> Tensor:
        """What the layer makes of values (B, C, h, w)."""
        with torch.autocast(values.device.type, enabled=False):
            found: Tensor = self.layer(values.float())
        return found


def prepared(member: Member, device: str, precision: Precision) -> Member:
    """`member` on a device as it scores fastest there; changed in place, and not to be saved any more.

    Convolutions are faster when the channels of a pixel lie side by side. In bf16 the first convolution keeps float32:
    it sees the fine differences of grey that bfloat16's eight bits round away, and with one channel costs little.
    """
    if precision == "bf16":
        names = member.backbone.pretrained_cfg["first_conv"]  # type: ignore[index]
        for name in (names,) if isinstance(names, str) else tuple(names):
            member.backbone.set_submodule(name, InFloat32(member.backbone.get_submodule(name)))
    member.precision = precision
    moved: Member = member.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def check_precision(device: torch.device, precision: Precision) -> None:
    """Refuse bfloat16 on a GPU that has none. Raises ConfigError."""
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(f"{torch.cuda.get_device_name(device)} has no bfloat16; leave out --precision bf16.")
