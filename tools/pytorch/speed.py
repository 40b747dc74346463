#!/usr/bin/env python3
"""Images a second of a training step in PyTorch, to hold `trainer benchmark` against.

The same network, batch sizes and Adam, on the CPU, with pictures already in memory:

    apt-get install python3-torch
    python3 tools/pytorch/speed.py
"""
import os
import time

import torch
from torch import nn


def network():
    layers, channels, side = [], 3, 32
    for out in (32, 64, 128):
        layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.LeakyReLU(0.01), nn.MaxPool2d(2)]
        channels, side = out, side // 2
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(channels * side * side, 256), nn.LeakyReLU(0.01), nn.Dropout(0.3),
        nn.Linear(256, 128), nn.LeakyReLU(0.01), nn.Linear(128, 1))


def speed(batch, seconds=5):
    torch.manual_seed(1)
    net = network()
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    loss = nn.BCEWithLogitsLoss()
    pictures, labels = torch.rand(batch, 3, 32, 32), torch.randint(0, 2, (batch, 1)).float()

    def step():
        adam.zero_grad()
        loss(net(pictures), labels).backward()
        adam.step()

    for _ in range(5):
        step()
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        step()
        steps += 1
    return steps * batch / (time.perf_counter() - begin)


torch.set_num_threads(os.cpu_count())
print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
for batch in (32, 128):
    print(f"batch {batch}: training {speed(batch):.0f} images/s")
