"""The reference network for short texts."""

import torch
from torch import Tensor, nn


class TextCNN(nn.Module):
    """Embeddings `stem`, windows of three, four and five words `layer1`, their maxima over the text, `fc`: token ids
    (b, length) -> (b, classes) (Kim 2014, arXiv:1408.5882)."""

    def __init__(self, vocabulary: int, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Embedding(vocabulary, width, padding_idx=0)
        self.layer1 = nn.ModuleList(nn.Conv1d(width, width, size, padding=size // 2) for size in (3, 4, 5))
        self.dropout = nn.Dropout()
        self.fc = nn.Linear(3 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        words = self.stem(x).transpose(1, 2)
        maxima = torch.cat([layer(words).relu().amax(2) for layer in self.layer1], 1)
        logits: Tensor = self.fc(self.dropout(maxima))
        return logits


def textcnn(*, vocabulary: int, classes: int, width: int = 1) -> TextCNN:
    """32 dimensions times `width`, for the embeddings and each window."""
    return TextCNN(vocabulary, classes, 32 * width)
