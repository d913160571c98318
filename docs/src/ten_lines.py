import torch
from torch import nn

import limbeck

x, y = torch.rand(512, 20), torch.randint(2, (512,))  # your examples
teacher = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 2))  # your model, trained
student = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 2))

run = limbeck.Run(student=student, teacher=teacher, data=(x, y), test=(x, y), method=limbeck.kd(tau=4.0), epochs=5)
run.fit()
print(run.evaluate())  # accuracy, nll, ece; agreement and KL with the teacher
