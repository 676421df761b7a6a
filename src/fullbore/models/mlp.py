"""A multi-layer perceptron for tabular features."""

from __future__ import annotations

from torch import Tensor, nn

from fullbore.spec.model import MLPModel


class MLP(nn.Module):
    """Features [B, F] to outputs [B, N]: linear layers with GELU (Hendrycks and Gimpel 2016) and dropout between."""

    inputs = "features"

    def __init__(self, section: MLPModel, features: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = features
        for wider in section.hidden:
            layers += [nn.Linear(width, wider), nn.GELU(), nn.Dropout(section.dropout)]
            width = wider
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, outputs)
        for module in self.layers:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, 0, 0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.layers(features.to(self.head.weight.dtype)))
        return outputs
