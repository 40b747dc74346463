"""Trains the networks of `trainer train experiment=cifar10` with PyTorch, for comparison.

It reads the dataset that `trainer data prepare experiment=cifar10 dataset.path=cifar10.zip` has prepared, and uses the same
network, optimizer, schedule and augmentation on the same number of cores. It prints a line per epoch, and at the end the accuracy of
the averaged weights on the test split with the training time:

    pip install torch numpy
    python3 tools/pytorch/cifar10.py --data data/folder
    python3 tools/pytorch/cifar10.py --data data/folder --model resnet-small
"""

import argparse
import copy
import time

import numpy
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """A 3x3 convolution, batch norm, leaky ReLU and, with pool, 2x2 max pooling."""

    def __init__(self, inputs, outputs, pool=True, activate=True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.pool, self.activate = pool, activate

    def forward(self, x):
        x = self.norm(self.conv(x))
        if self.activate:
            x = functional.leaky_relu(x, 0.01)
        return functional.max_pool2d(x, 2) if self.pool else x


class Unit(nn.Module):
    """Two blocks without pooling, whose input is added before the last leaky ReLU."""

    def __init__(self, channels):
        super().__init__()
        self.first = Block(channels, channels, pool=False)
        self.second = Block(channels, channels, pool=False, activate=False)

    def forward(self, x):
        return functional.leaky_relu(x + self.second(self.first(x)), 0.01)


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def network(name, classes):
    if name == "cnn":
        return nn.Sequential(
            Block(3, 32), Block(32, 64), Block(64, 128), nn.Flatten(),
            nn.Linear(2048, 256), nn.LeakyReLU(0.01), nn.Linear(256, 128), nn.LeakyReLU(0.01), nn.Linear(128, classes),
        )
    return nn.Sequential(
        Block(3, 32, pool=False), Block(32, 64), Unit(64), Block(64, 128), Block(128, 256), Unit(256), Mean(), nn.Linear(256, classes),
    )


def augment(images, margin=4):
    """Mirrors a random half of the images and moves each by up to margin pixels."""
    n, _, height, width = images.shape
    flip = torch.rand(n) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    padded = functional.pad(images, [margin] * 4, mode="reflect")
    dx, dy = torch.randint(0, 2 * margin + 1, (2, n))
    rows = dy[:, None] + torch.arange(height)
    columns = dx[:, None] + torch.arange(width)
    index = torch.arange(n)
    return padded[index[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def tensor(path):
    return torch.from_numpy(numpy.load(path))


def accuracy(net, images, labels):
    net.eval()
    with torch.no_grad():
        right = sum(
            int((net(x.permute(0, 3, 1, 2).float() / 255).argmax(1) == y).sum())
            for x, y in zip(images.split(500), labels.split(500))
        )
    net.train()
    return right / len(labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data/folder", help="prepared dataset")
    parser.add_argument("--model", choices=["cnn", "resnet-small"], default="cnn")
    parser.add_argument("--epochs", type=int, help="default: 16, or 20 for resnet-small")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--seed", type=int, default=420)
    parser.add_argument("--threads", type=int, default=0, help="default: all cores")
    options = parser.parse_args()
    epochs = options.epochs or (16 if options.model == "cnn" else 20)
    smoothing = 0.0 if options.model == "cnn" else 0.05
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    train, labels = tensor(f"{options.data}/train-images.npy"), tensor(f"{options.data}/train-labels.npy").long()
    test, truth = tensor(f"{options.data}/test-images.npy"), tensor(f"{options.data}/test-labels.npy").long()
    net = network(options.model, int(labels.max()) + 1).to(memory_format=torch.channels_last)
    average = copy.deepcopy(net)
    decay = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=options.lr)
    steps = -(-len(train) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=options.lr, total_steps=epochs * steps, pct_start=0.25, cycle_momentum=False)

    step, began = 0, time.time()
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(train)).split(options.batch):
            x = augment(train[batch].permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(net(x), labels[batch], label_smoothing=smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            part = 1 - min(options.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                for a, b in zip(average.state_dict().values(), net.state_dict().values()):
                    if a.is_floating_point():
                        a.lerp_(b, part)
            total += float(loss.detach()) * len(batch)
        print(f"epoch {epoch + 1}/{epochs}: loss {total / len(train):.4f}, {time.time() - began:.0f} s", flush=True)
    seconds = time.time() - began
    print(f"{options.model}, seed {options.seed}: test accuracy {accuracy(average, test, truth):.4f} after {seconds:.0f} s of training")


if __name__ == "__main__":
    main()
