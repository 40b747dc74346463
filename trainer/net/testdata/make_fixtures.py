#!/usr/bin/python3
"""Generates small.npz, cifake.npz, residual.npz and loss.npz in this directory: the
results of the first training steps of networks in PyTorch, for fixtures_test.go.

Requires Debian's python3-torch (1.13) and python3-numpy. Run it with

    /usr/bin/python3 trainer/net/testdata/make_fixtures.py [NAME...]

Weights, images, labels and dropout masks are not stored: they come from a small
integer generator that generator_test.go implements as well. Everything is computed
in float64 from float32 weights and images, so that the fixtures are exact to the
last digit of float32 on any machine. The float32 results of PyTorch differ from
them by rounding, as those of this project do.

If a batch is close to a tie in a pool, or to the kink of a leaky ReLU, rounding
decides which way a gradient goes, and training then amplifies the difference: after
twenty steps, float32 and float64 in PyTorch differed by a tenth. So the seeds are
such that no value comes closer to either than rounding reaches (ROUNDINGS), in the
first steps, and in small.npz in all twenty. The script fails if that is not the
case; use another seed then.
"""

import pathlib
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SIDE, COLORS = 32, 3
SLOPE, DROPOUT, KEEP = 0.01, 3 / 10, 0.7
STEPS = 20
# Ten times the float32 rounding error of a convolution, in standard deviations.
ROUNDINGS = 7e-6


def draw(stream, n):
    """n 24-bit integers: splitmix64 with the initial state stream * 0xD1B5...ED03."""
    start = (stream * 0xD1B54A32D192ED03) & (2**64 - 1)
    with np.errstate(over="ignore"):
        z = np.uint64(start) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.int64)


def unit(d):
    return d / 2.0**24


class Streams:
    """The streams of a seed, which generator_test.go lists."""

    def __init__(self, seed):
        self.seed = seed

    def draw(self, which, n):
        return draw(10000 * self.seed + which, n)

    def images(self, first, count, side=SIDE, classes=2):
        labels = (self.draw(300, first + count) % classes)[first:]
        out = np.empty((count, side, side, COLORS), np.uint8)
        row, column = np.mgrid[0:side, 0:side]
        cells = (side + 3) // 4
        for i in range(count):
            number = first + i
            areas = (self.draw(1000 + 2 * number, cells * cells * COLORS) & 127).reshape(cells, cells, COLORS)
            noise = (self.draw(1001 + 2 * number, side * side * COLORS) & 63).reshape(side, side, COLORS)
            grid = 6 * (labels[i] % 8) * ((row + column) & 1)
            out[i] = areas[row // 4, column // 4] + noise + grid[:, :, None]
        return out, labels

    def dropout(self, step, shape):
        d = self.draw(400 + step, int(np.prod(shape)))
        mask = np.where(d * 10 < 3 << 24, np.float32(0), np.float32(1 / KEEP))
        return torch.from_numpy(mask.astype(np.float64)).reshape(shape)


class Network(nn.Module):
    def __init__(self, channels, dense):
        super().__init__()
        widths = [COLORS] + channels
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in zip(widths, widths[1:]))
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        side = SIDE >> len(channels)
        widths = [channels[-1] * side * side] + dense + [1]
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))
        self.double()

    def flat(self):
        """All parameters in the order of the parameter vector."""
        out = []
        for conv, norm in zip(self.convs, self.norms):
            out += [conv.weight, norm.weight, norm.bias]
        for layer in self.dense:
            out += [layer.weight, layer.bias]
        return out

    def start(self, streams):
        """Sets the weights that drawWeights returns."""
        norms = {id(norm.weight) for norm in self.norms}, {id(norm.bias) for norm in self.norms}
        fan_in = 0
        with torch.no_grad():
            for k, p in enumerate(self.flat()):
                u = unit(streams.draw(k, p.numel()))
                if id(p) in norms[0]:
                    u = np.where(streams.draw(100 + k, p.numel()) & 3 == 0, -(u + 0.5), u + 0.5)
                elif id(p) in norms[1]:
                    u = 0.2 * (2 * u - 1)
                else:
                    # A bias follows its weights and has the same number of inputs.
                    fan_in = p[0].numel() if p.dim() > 1 else fan_in
                    u = (2 * u - 1) / np.sqrt(fan_in)
                p.copy_(torch.from_numpy(u.astype(np.float32).astype(np.float64)).reshape(p.shape))

    def statistics(self):
        """Running means and variances, concatenated in the order of the blocks."""
        return [np.concatenate([getattr(n, name).numpy() for n in self.norms]) for name in ("running_mean", "running_var")]

    def set_statistics(self, streams):
        """Sets the statistics that drawStats returns."""
        total = sum(n.num_features for n in self.norms)
        mean = (0.2 * (2 * unit(streams.draw(200, total)) - 1)).astype(np.float32)
        var = (0.5 + unit(streams.draw(201, total))).astype(np.float32)
        at = 0
        for n in self.norms:
            n.running_mean.copy_(torch.from_numpy(mean[at : at + n.num_features].astype(np.float64)))
            n.running_var.copy_(torch.from_numpy(var[at : at + n.num_features].astype(np.float64)))
            at += n.num_features

    def forward(self, x, mask=None, near=None):
        """Appends the distance of each layer to the nearest kink to the list near."""
        for conv, norm in zip(self.convs, self.norms):
            y = conv(x)
            z = norm(y)
            x = F.max_pool2d(F.leaky_relu(z, SLOPE), 2)
            if near is not None:
                near.append(self.nearest(z.detach(), norm.weight.detach()))
        x = x.flatten(1)
        embedding = None
        for i, layer in enumerate(self.dense):
            embedding = x
            x = layer(x)
            if i < len(self.dense) - 1:
                if near is not None:
                    near.append(x.detach().abs().min().item())
                x = F.leaky_relu(x, SLOPE)
            if i == 0 and mask is not None:
                x = x * mask
        return x, embedding

    @staticmethod
    def nearest(z, gamma):
        """The smallest distance to the maximum of a pool, and of a maximum to zero, in
        standard deviations of the channel."""
        z = z / gamma.abs().reshape(1, -1, 1, 1)
        b, c, h, w = z.shape
        squares = z.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(b, c, h // 2, w // 2, 4)
        top = squares.sort(-1, descending=True)[0]
        return min((top[..., 0] - top[..., 1]).min().item(), top[..., 0].abs().min().item())


OPTIMIZERS = {
    "adam": lambda p, scale: torch.optim.Adam(p, lr=scale * 1e-3),
    "sgd": lambda p, scale: torch.optim.SGD(p, lr=scale * 0.05, momentum=0.9, nesterov=True, weight_decay=1e-4),
}


class Run:
    """The training of a network from the weights of a seed."""

    def __init__(self, seed, channels, dense):
        self.streams = Streams(seed)
        self.net = Network(channels, dense)
        self.net.start(self.streams)
        self.net.train()

    def batch(self, first, size):
        images, labels = self.streams.images(first, size)
        x = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        return torch.from_numpy(x.astype(np.float64)), torch.from_numpy(labels.astype(np.float64)).reshape(-1, 1)

    def loss(self, first, size, step, near=None):
        """The loss of the batch, after the backward pass; near as in Network.forward."""
        x, labels = self.batch(first, size)
        for p in self.net.parameters():
            p.grad = None
        mask = self.streams.dropout(step, (size, self.net.dense[0].out_features))
        logit, _ = self.net(x, mask, near)
        loss = F.binary_cross_entropy_with_logits(logit, labels)
        loss.backward()
        return loss.item()


def clear(near, what):
    print(f"{what}: nearest kink {min(near):.1e}")
    if min(near) < ROUNDINGS:
        raise SystemExit("too near: use another seed")


def gradients(seed, channels, dense, first, size):
    run = Run(seed, channels, dense)
    near = []
    run.loss(first, size, 0, near)
    clear(near, f"seed {seed}, {size} images")
    return [p.grad.numpy() for p in run.net.flat()], *run.net.statistics()


def losses(seed, channels, dense, optimizer, batches, scale=1.0):
    """The losses of STEPS steps that cycle through the batches (first, size), and
    the distances to the nearest kinks."""
    run = Run(seed, channels, dense)
    step = OPTIMIZERS[optimizer](run.net.flat(), scale)
    out, near = [], []
    for i in range(STEPS):
        out.append(run.loss(*batches[i % len(batches)], i, near))
        step.step()
    return np.array(out), near


def evaluated(seed, channels, dense, count):
    run = Run(seed, channels, dense)
    run.net.set_statistics(run.streams)
    run.net.eval()
    with torch.no_grad():
        logit, embedding = run.net(run.batch(0, count)[0])
    return logit.numpy(), embedding.numpy()


def f32(x):
    return np.asarray(x, np.float32)


class Residual(Network):
    """The network `residual` of generator_test.go: a stem, two blocks with one and two
    residual units, global average pooling and one dense layer, with ReLU."""

    SIDE, CLASSES, STEM, CHANNELS, UNITS = 16, 5, 16, [16, 32], [1, 2]

    def __init__(self):
        nn.Module.__init__(self)
        # (channels, pool, index of the convolution whose output is the shortcut)
        self.blocks = [(self.STEM, False, None)]
        for channels, units in zip(self.CHANNELS, self.UNITS):
            self.blocks.append((channels, True, None))
            for _ in range(units):
                self.blocks += [(channels, False, None), (channels, False, len(self.blocks) - 1)]
        widths = [COLORS] + [channels for channels, _, _ in self.blocks]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in zip(widths, widths[1:]))
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in widths[1:])
        self.dense = nn.ModuleList([nn.Linear(widths[-1], self.CLASSES)])
        self.double()

    def forward(self, x, mask=None, near=None):
        outputs = []
        for conv, norm, (_, pool, shortcut) in zip(self.convs, self.norms, self.blocks):
            z = norm(conv(x))
            if shortcut is not None:
                z = z + outputs[shortcut]
            x = F.relu(z)
            if pool:
                x = F.max_pool2d(x, 2)
            if near is not None:
                gamma = norm.weight.detach()
                scaled = z.detach() / gamma.abs().reshape(1, -1, 1, 1)
                near.append(self.nearest(z.detach(), gamma) if pool else scaled.abs().min().item())
            outputs.append(x)
        x = x.mean((2, 3))
        embedding = x
        if mask is not None:
            x = x * mask
        return self.dense[0](x), embedding


CLASS_WEIGHTS = [0.5, 2.0, 1.0, 0.25, 4.0]
SMOOTHING = 0.2


class ResidualRun(Run):
    def __init__(self, seed):
        self.streams = Streams(seed)
        self.net = Residual()
        self.net.start(self.streams)
        self.net.train()

    def batch(self, first, size):
        images, labels = self.streams.images(first, size, Residual.SIDE, Residual.CLASSES)
        x = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        return torch.from_numpy(x.astype(np.float64)), torch.from_numpy(labels)

    def loss(self, first, size, step, near=None, criterion=F.cross_entropy):
        x, labels = self.batch(first, size)
        for p in self.net.parameters():
            p.grad = None
        logits, _ = self.net(x, self.streams.dropout(step, (size, self.net.dense[0].in_features)), near)
        loss = criterion(logits, labels)
        loss.backward()
        return loss.item()


def residual():
    """The residual network: all elements of its gradient, with class weights and label
    smoothing, the losses of AdamW, and its outputs in evaluation."""
    criterion = nn.CrossEntropyLoss(torch.tensor(CLASS_WEIGHTS, dtype=torch.float64), label_smoothing=SMOOTHING)
    out, steps = {}, 10
    for seed in range(1, 10000):
        run, near = ResidualRun(seed), []
        loss = run.loss(0, 4, 0, near, criterion)
        if min(near) >= ROUNDINGS:
            break
    clear(near, f"residual: seed {seed}")
    out["seed"], out["loss"] = np.array([seed], np.int64), np.array([loss])
    out["gradient"] = f32(np.concatenate([p.grad.numpy().ravel() for p in run.net.flat()]))
    out["mean"], out["var"] = map(f32, run.net.statistics())
    run.net.set_statistics(run.streams)
    run.net.eval()
    with torch.no_grad():
        logits, embedding = run.net(run.batch(0, 8)[0])
    out["eval_logits"], out["eval_embedding"] = f32(logits.ravel()), f32(embedding.ravel())
    for seed in range(1, 10000):
        run, losses, near = ResidualRun(seed), [], []
        # As is usual, batch norms and biases do not decay.
        kernels = [p for p in run.net.flat() if p.dim() > 1]
        others = [p for p in run.net.flat() if p.dim() == 1]
        optimizer = torch.optim.AdamW([{"params": kernels, "weight_decay": 0.5}, {"params": others, "weight_decay": 0}], lr=1e-3)
        for i in range(steps):
            losses.append(run.loss(2 * (i % 3), 2, i, near))
            if min(near) < ROUNDINGS:
                break
            optimizer.step()
        else:
            break
    clear(near, f"residual: seed {seed}, {steps} steps of AdamW")
    out["seed_adamw"], out["losses_adamw"] = np.array([seed], np.int64), np.array(losses)
    return out


def loss():
    """Losses and their gradients with respect to logits, for all options of the loss."""
    out, batch = {}, 6
    for classes in (2, 5):
        streams = Streams(classes)
        z = torch.from_numpy((8 * unit(streams.draw(0, batch * classes)) - 4).astype(np.float32).astype(np.float64)).reshape(batch, classes)
        labels = torch.from_numpy(streams.draw(1, batch) % classes)
        share = torch.from_numpy((streams.draw(2, batch) % 8) / 8.0).reshape(-1, 1)
        soft = (1 - share) * F.one_hot(labels, classes) + share * F.one_hot(labels.roll(-1), classes)
        if classes == 2:
            z[:, 0] = 0  # so that z[:, 1] is the logit
        out[f"logits_{classes}"] = f32(z.ravel())
        for name, weights, smoothing in (("plain", None, 0), ("weights", CLASS_WEIGHTS, 0), ("smoothing", None, SMOOTHING), ("both", CLASS_WEIGHTS, SMOOTHING)):
            w = None if weights is None else torch.tensor(weights[:classes], dtype=torch.float64)
            for kind, target in (("labels", labels), ("soft", soft)):
                logits = z.clone().requires_grad_()
                value = nn.CrossEntropyLoss(w, label_smoothing=smoothing)(logits, target)
                value.backward()
                if classes == 2 and kind == "labels" and smoothing == 0:
                    # The network's one logit, with the loss that is usual for it.
                    each = None if w is None else w[labels]
                    binary = nn.BCEWithLogitsLoss(each, reduction="sum")(z[:, 1], labels.double())
                    np.testing.assert_allclose(binary / (batch if w is None else each.sum()), value.detach(), rtol=1e-12)
                key = f"{kind}_{name}_{classes}"
                out["loss_" + key] = np.array([value.item()])
                out["gradient_" + key] = f32(logits.grad.ravel())
    return out


def small():
    """A small network: all elements of its gradients for a full and a smaller batch,
    and the losses over epochs that end with a smaller batch."""
    shape = [16, 32, 32], [32, 16]
    seed = 107
    out = {"seed": np.array([seed], np.int64)}
    for first, size in ((0, 24), (72, 7)):
        grads, mean, var = gradients(seed, *shape, first, size)
        out[f"gradient_{size}"] = f32(np.concatenate([g.ravel() for g in grads]))
        out[f"mean_{size}"], out[f"var_{size}"] = f32(mean), f32(var)
    logit, embedding = evaluated(seed, *shape, 24)
    out["eval_logit"], out["eval_embedding"] = f32(logit.ravel()), f32(embedding.ravel())
    for name, seed in (("adam", 111), ("sgd", 1917)):
        out[f"seed_{name}"] = np.array([seed], np.int64)
        out[f"losses_{name}"], near = losses(seed, *shape, name, [(0, 3), (3, 3), (6, 3), (9, 2)])
        clear(near, f"seed {seed}, {STEPS} steps of {name}")
    return out


def cifake():
    """The network that the project trains: the norm, the largest element and 32
    samples of each gradient."""
    shape = [32, 64, 128], [256, 128]
    seed = 129
    grads, mean, var = gradients(seed, *shape, 0, 32)
    streams = Streams(seed)
    samples = [g.ravel()[streams.draw(500 + k, 32) % g.size] for k, g in enumerate(grads)]
    out = {
        "seed": np.array([seed], np.int64),
        "norms": np.array([np.sqrt((g**2).sum()) for g in grads]),
        "largest": np.array([np.abs(g).max() for g in grads]),
        "samples": f32(np.concatenate(samples)),
        "mean": f32(mean),
        "var": f32(var),
    }
    for name in OPTIMIZERS:
        # At a tenth of the rate, because not all of these steps can stay clear of kinks.
        # So float32 and float64 in PyTorch differ by at most 1e-3 instead of a tenth.
        out[f"losses_{name}"], near = losses(seed, *shape, name, [(32 * i, 32) for i in range(4)], 0.1)
        print(f"seed {seed}, {STEPS} steps of {name}: nearest kink {min(near):.1e}")
    logit, embedding = evaluated(seed, *shape, 32)
    out["eval_logit"], out["eval_embedding"] = f32(logit.ravel()), f32(embedding[:4].ravel())
    return out


if __name__ == "__main__":
    torch.set_num_threads(2)
    here = pathlib.Path(__file__).parent
    fixtures = {"small": small, "cifake": cifake, "residual": residual, "loss": loss}
    for name in sys.argv[1:] or fixtures:
        np.savez_compressed(here / f"{name}.npz", **fixtures[name]())
