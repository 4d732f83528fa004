"""Torch-Pruning on PyTorch: filters, removed step by step while training."""

import time

import torch
import torch_pruning as tp
from _common import Task
from torch import nn


class LeNet5(nn.Module):
    """LeNet-5 as in Caffe."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.classifier = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x):
        """Logits."""
        for conv in (self.conv1, self.conv2):
            x = nn.functional.max_pool2d(torch.relu(conv(x)), 2)
        return self.classifier(torch.relu(self.fc1(x.flatten(1))))


class Unit(nn.Sequential):
    """A convolution and its normalization."""

    def __init__(self, before, filters, strides=1):
        super().__init__(
            # Keras pads an even image behind, PyTorch on both sides.
            nn.Conv2d(before, filters, 3, strides, padding=1),
            nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01),
        )


class ResNet8(nn.Module):
    """MLPerf Tiny's network."""

    def __init__(self):
        super().__init__()
        self.first = Unit(3, 16)
        widths = ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        self.one = nn.ModuleList(Unit(a, b, s) for a, b, s in widths)
        self.two = nn.ModuleList(Unit(b, b) for _, b, _ in widths)
        self.shortcut = nn.ModuleList(
            nn.Conv2d(a, b, 1, s) if s > 1 else nn.Identity() for a, b, s in widths
        )
        self.classifier = nn.Linear(64, 10)

    def forward(self, x):
        """Logits."""
        x = torch.relu(self.first(x))
        for one, two, shortcut in zip(self.one, self.two, self.shortcut, strict=True):
            x = torch.relu(two(torch.relu(one(x))) + shortcut(x))
        return self.classifier(x.mean((2, 3)))


def network(task):
    """The dense network; LeNet-5 with the weights that all peers begin with."""
    if task.name != "lenet5":
        return pretrained(task)
    model = LeNet5()
    arrays = [torch.from_numpy(array) for array in task.weights]
    arrays[4] = arrays[4].reshape(4, 4, 50, 500).permute(2, 0, 1, 3).reshape(800, 500)
    with torch.no_grad():
        for variable, array in zip(model.parameters(), arrays, strict=True):
            axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.dim()]
            variable.copy_(array.permute(axes))
    return model


def pretrained(task):
    """A network of its own training, as long as the others' dense one."""
    torch.manual_seed(task.seed)
    model = ResNet8()
    train(task, model, epochs=task.dense_epochs)
    return model


def train(task, model, epochs, before=lambda epoch: False):
    """Trains like Keras; returns processor seconds."""
    images, labels = map(torch.from_numpy, task.train)
    images, labels = images.permute(0, 3, 1, 2).contiguous(), labels.long()
    optimizer = torch.optim.Adam(model.parameters(), task.rate, eps=1e-7)
    begin = time.process_time()
    for epoch in range(epochs):
        if before(epoch):  # other parameters than before
            optimizer = torch.optim.Adam(model.parameters(), task.rate, eps=1e-7)
        model.train()
        for rows in torch.randperm(len(images)).split(task.batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return time.process_time() - begin


def accuracy(task, model):
    model.eval()
    images = torch.from_numpy(task.test[0]).permute(0, 3, 1, 2)
    with torch.no_grad():
        answers = torch.cat([model(part).argmax(1) for part in images.split(250)])
    return float((answers.numpy() == task.test[1]).mean())


def filters(task):
    model = network(task)
    example = torch.from_numpy(task.test[0][:1]).permute(0, 3, 1, 2)
    ramp = max(1, task.epochs // 2)
    # user code
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=task.filters,
        iterative_steps=ramp,
        ignored_layers=[model.classifier],
    )

    def before(epoch):
        if epoch < ramp:
            pruner.step()
        return epoch < ramp

    # end
    seconds = train(task, model, task.epochs, before)
    path = task.out / "filters.pt"
    torch.save(model.state_dict(), path)
    return {
        "seconds": seconds,
        "accuracy": accuracy(task, model),
        "files": {".pt": str(path)},
        "note": "weights alone; no .tflite from PyTorch itself",
    }


task = Task()
torch.manual_seed(task.seed)
torch.set_num_threads(1)
task.plain = train(task, network(task), epochs=2) * task.epochs / 2
task.run("filters", filters)
