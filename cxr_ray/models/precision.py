"""How a member is made fast on a device, and what of it keeps float32."""

from collections.abc import Mapping
from typing import Any

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


_BFLOAT16_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # of x86, then of ARM


def emulates(device: torch.device, precision: Precision) -> bool:
    """Whether a CPU has no units for `precision`, which is then right but slow.

    A resnet50 in bf16 takes 0.51 of fp32's time with the units, 2.0 times as long with AVX-512 alone, 3.9 with AVX2.
    A torch that cannot tell (before `torch.cpu.get_capabilities`) is taken to have them.
    """
    if precision == "fp32" or device.type != "cpu":
        return False
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities) and not any(capabilities.get(unit) for unit in _BFLOAT16_UNITS)


def check_precision(device: torch.device, precision: Precision) -> None:
    """Refuse bfloat16 on a GPU that has none. Raises ConfigError."""
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(f"{torch.cuda.get_device_name(device)} has no bfloat16; leave out --precision bf16.")
