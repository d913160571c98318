"""The student for a small chip of Islam et al. 2025 (cell sorting), `build("limbeck.models.cell:cell_cnn", ...)`."""

from collections import OrderedDict

from torch import nn


def cell_cnn(*, channels: int, classes: int, size: tuple[int, int], width: int = 16) -> nn.Sequential:
    """Two unpadded 3x3 convolutions, each with ReLU and a pooling by 2, dropout and a linear layer: 5,682 parameters
    for images of 1 x 48 x 48 and two classes. At least 10 x 10; it ends in logits, the authors' in a softmax."""
    height, width_left = (((side - 2) // 2 - 2) // 2 for side in size)
    return nn.Sequential(
        OrderedDict(
            layer1=nn.Sequential(nn.Conv2d(channels, width, 3), nn.ReLU(), nn.MaxPool2d(2)),
            layer2=nn.Sequential(nn.Conv2d(width, width, 3), nn.ReLU(), nn.MaxPool2d(2)),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(0.5),
            fc=nn.Linear(width * height * width_left, classes),
        )
    )
