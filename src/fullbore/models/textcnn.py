"""TextCNN: Kim (2014), Convolutional Neural Networks for Sentence Classification."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullbore.spec.model import TextCNNModel


class TextCNN(nn.Module):
    """Tokens [B, T] and their mask [B, T] to outputs [B, N]: convolutions of several widths, pooled over the text."""

    inputs = "tokens"

    def __init__(self, section: TextCNNModel, vocabulary_size: int, outputs: int) -> None:
        super().__init__()
        self.widest = max(section.kernels)
        self.embedding = nn.Embedding(vocabulary_size, section.width)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(section.width, section.filters, size, padding=size // 2) for size in section.kernels
        )
        self.dropout = nn.Dropout(section.dropout)
        self.head = nn.Linear(section.filters * len(section.kernels), outputs)
        nn.init.normal_(self.embedding.weight, 0, section.width**-0.5)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is None:
            attention_mask = torch.ones_like(tokens, dtype=torch.bool)
        embedded = self.embedding(tokens) * attention_mask.unsqueeze(-1)
        x = embedded.transpose(1, 2)
        hidden = ~attention_mask.unsqueeze(1)
        pooled = [
            F.relu(convolve(x)[..., : tokens.shape[1]]).masked_fill(hidden, 0).amax(-1)
            for convolve in self.convolutions
        ]
        outputs: Tensor = self.head(self.dropout(torch.cat(pooled, dim=1)))
        return outputs
