import torch
from torch import nn

import limbeck


def build(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 2))


student = build(width=8)  # and trained, by a Run or by you
x, y = torch.rand(512, 20), torch.randint(2, (512,))  # your test examples

measured = limbeck.export.export(
    student, "exported", test=(x, y), int8=True, builder=build, arguments={"width": 8}, about={"classes": ["no", "yes"]}
)
print({form: (row["accuracy"], row["latency_ms"]) for form, row in measured.items()})

logits = limbeck.export.load("exported", builder=build)(x)  # safetensors, in torch
same = limbeck.export.load_onnx("exported")(x)  # in ONNX Runtime
