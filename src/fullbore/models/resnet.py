"""A residual network for small images: pre-activation blocks (He et al. 2016), stages that halve the side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullbore.spec.model import ResNetModel


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first_norm, self.first = nn.BatchNorm2d(inputs), _convolution(inputs, outputs, 3, stride)
        self.second_norm, self.second = nn.BatchNorm2d(outputs), _convolution(outputs, outputs, 3)
        self.shortcut = _convolution(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.first_norm(x))
        skipped = x if self.shortcut is None else self.shortcut(active)
        added: Tensor = skipped + self.second(F.relu(self.second_norm(self.first(active))))
        return added


class ResNet(nn.Module):
    """Pixels uint8 [B, C, H, W] (scaled to [-1, 1] inside) to outputs [B, N].

    Batch statistics are those of a rank's micro-batch while training; running averages are used in eval mode.
    """

    inputs = "pixels"

    def __init__(self, section: ResNetModel, channels: int, outputs: int) -> None:
        super().__init__()
        self.stem = _convolution(channels, section.width, 3)
        blocks: list[nn.Module] = []
        width = section.width
        for stage, count in enumerate(section.blocks):
            for index in range(count):
                wider = section.width * 2**stage
                blocks.append(Block(width, wider, 2 if stage and not index else 1))
                width = wider
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, outputs)
        self._initialise()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixels: Tensor) -> Tensor:
        x = scaled(pixels, self.head.weight.dtype).contiguous(memory_format=torch.channels_last)
        x = F.relu(self.norm(self.blocks(self.stem(x))))
        outputs: Tensor = self.head(x.mean((2, 3)))
        return outputs


def scaled(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes to numbers in [-1, 1]: (x / 255 - 0.5) / 0.5."""
    return (pixels.to(torch.float32) * (2 / 255) - 1).to(dtype)
