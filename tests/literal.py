"""Published networks, written out: their names, shapes and forward passes, after their sources.

A network is a function of a `Net` and images. A layer that is called for the first time draws its
weights, so that one transcription gives both the state under the published names and its outputs.
"""

import math

import torch
from torch.nn.functional import adaptive_max_pool2d, batch_norm, conv2d, max_pool2d, relu, relu6

SHAPES_OF_MAPS = (4, 6, 6, 6, 4, 4)


class Net:
    """A state_dict that grows while its network is run."""

    def __init__(self, num_classes):
        self.num_classes, self.state = num_classes, {}

    def conv(self, name, x, outputs, kernel, *, bias=True, groups=1, **options):
        """A convolution."""
        inputs = x.shape[1] // groups
        if f"{name}.weight" not in self.state:
            spread = math.sqrt(2 / (inputs * kernel**2))
            self.state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel) * spread
            if bias:
                self.state[f"{name}.bias"] = torch.randn(outputs) * 0.1
        weight, offset = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        return conv2d(x, weight, offset, groups=groups, **options)

    def norm(self, name, x):
        """Batch normalisation in eval mode."""
        width = x.shape[1]
        if f"{name}.weight" not in self.state:
            self.state |= {
                f"{name}.weight": torch.rand(width) + 0.5,
                f"{name}.bias": torch.randn(width) * 0.1,
                f"{name}.running_mean": torch.randn(width) * 0.1,
                f"{name}.running_var": torch.rand(width) + 0.5,
                f"{name}.num_batches_tracked": torch.tensor(7),
            }
        parts = ("running_mean", "running_var", "weight", "bias")
        return batch_norm(x, *(self.state[f"{name}.{part}"] for part in parts))

    def vector(self, name, width):
        """Factors of a norm."""
        return self.state.setdefault(name, torch.rand(width) * 20)

    def heads(self, maps, localization, confidence, shapes=SHAPES_OF_MAPS, head=None):
        """(offsets, logits), from names with {} for the number of the map."""
        head = head or (lambda name, x, n: self.conv(name, x, n, 3, padding=1))
        found = []
        for name, width in ((localization, 4), (confidence, self.num_classes)):
            rows = [
                head(name.format(k), x, n * width).permute(0, 2, 3, 1).reshape(len(x), -1, width)
                for k, (x, n) in enumerate(zip(maps, shapes, strict=True))
            ]
            found.append(torch.cat(rows, dim=1))
        return found


# --- VGG-16: lufficc's SSD300 and SSD512, qfgaohao's vgg16-ssd ------------------------------------


def vgg(net, name, x):
    """conv4_3 and fc7, of one list of layers."""
    place = 0
    for stage, (width, layers) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for _ in range(layers):
            x = relu(net.conv(f"{name}.{place}", x, width, 3, padding=1))
            place += 2
        if stage == 4:
            conv4_3 = x
        if stage < 5:
            x = max_pool2d(x, 2, 2, ceil_mode=stage == 3)
        place += 1
    x = max_pool2d(x, 3, 1, 1)
    x = relu(net.conv(f"{name}.{place}", x, 1024, 3, padding=6, dilation=6))
    return conv4_3, relu(net.conv(f"{name}.{place + 2}", x, 1024, 1))


def lufficc(net, images):
    """Of 300 or 512 pixels: for 512 there are two more extra convolutions of stride 2."""
    conv4_3, fc7 = vgg(net, "backbone.vgg", images)
    length = conv4_3.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10
    scale = net.vector("backbone.l2_norm.weight", 512)
    maps = [conv4_3 / length * scale.view(1, 512, 1, 1), fc7]
    large = images.shape[-1] == 512
    plan = [(256, 1, {}), (512, 3, {"stride": 2, "padding": 1})]
    plan += [(128, 1, {}), (256, 3, {"stride": 2, "padding": 1})]
    plan += [(128, 1, {}), (256, 3, {"stride": 2, "padding": 1} if large else {})]
    plan += [(128, 1, {}), (256, 3, {"stride": 2, "padding": 1} if large else {})]
    plan += [(128, 1, {}), (256, 4, {"padding": 1})] if large else []
    x = fc7
    for k, (width, kernel, options) in enumerate(plan):
        x = relu(net.conv(f"backbone.extras.{k}", x, width, kernel, **options))
        maps += [x] if k % 2 else []
    shapes = (4, 6, 6, 6, 6, 4, 4) if large else SHAPES_OF_MAPS
    names = (f"box_head.predictor.{kind}_headers.{{}}" for kind in ("reg", "cls"))
    return net.heads(maps, *names, shapes)


def jetson_heads(net, maps, shapes, head=None):
    return net.heads(maps, "regression_headers.{}", "classification_headers.{}", shapes, head)


def jetson_extras(net, x, options):
    """Four blocks of two convolutions, each followed by a ReLU."""
    maps = []
    for k, (middle, outputs) in enumerate(((256, 512), (128, 256), (128, 256), (128, 256))):
        x = relu(net.conv(f"extras.{k}.0", x, middle, 1))
        x = relu(net.conv(f"extras.{k}.2", x, outputs, 3, **options[k]))
        maps.append(x)
    return maps


HALVE = {"stride": 2, "padding": 1}


def vgg16_ssd(net, images):
    conv4_3, fc7 = vgg(net, "base_net", images)
    maps = [net.norm("source_layer_add_ons.0", conv4_3), fc7]
    maps += jetson_extras(net, fc7, (HALVE, HALVE, {}, {}))
    return jetson_heads(net, maps, SHAPES_OF_MAPS)


# --- qfgaohao's MobileNets ------------------------------------------------------------------------


def mb1_ssd(net, images):
    x = net.conv("base_net.0.0", images, 32, 3, bias=False, stride=2, padding=1)
    x = relu(net.norm("base_net.0.1", x))
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    plan += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    maps = []
    for k, (width, stride) in enumerate(plan, 1):
        name, inputs = f"base_net.{k}", x.shape[1]
        options = {"groups": inputs, "stride": stride, "padding": 1}
        x = net.conv(f"{name}.0", x, inputs, 3, bias=False, **options)
        x = relu(net.norm(f"{name}.1", x))
        x = relu(net.norm(f"{name}.4", net.conv(f"{name}.3", x, width, 1, bias=False)))
        maps += [x] if k in (11, 13) else []
    maps += jetson_extras(net, x, (HALVE,) * 4)
    return jetson_heads(net, maps, (6,) * 6)


def inverted_residual(net, name, x, width, stride, hidden):
    """Its output, and its input made wide."""
    wide, place, inputs = x, 0, x.shape[1]
    if hidden != inputs:
        wide = relu6(net.norm(f"{name}.1", net.conv(f"{name}.0", x, hidden, 1, bias=False)))
        place = 3
    options = {"groups": hidden, "stride": stride, "padding": 1}
    y = net.conv(f"{name}.{place}", wide, hidden, 3, bias=False, **options)
    y = relu6(net.norm(f"{name}.{place + 1}", y))
    y = net.conv(f"{name}.{place + 3}", y, width, 1, bias=False)
    y = net.norm(f"{name}.{place + 4}", y)
    return (x + y if stride == 1 and inputs == width else y), wide


def mb2_ssd_lite(net, images):
    x = net.conv("base_net.0.0", images, 32, 3, bias=False, stride=2, padding=1)
    x = relu6(net.norm("base_net.0.1", x))
    maps, place = [], 1
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2))
    plan += ((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, width, count, stride in plan:
        for k in range(count):
            name, hidden = f"base_net.{place}.conv", x.shape[1] * expansion
            step = stride if k == 0 else 1
            x, wide = inverted_residual(net, name, x, width, step, hidden)
            maps += [wide] if place == 14 else []
            place += 1
    x = relu6(net.norm("base_net.18.1", net.conv("base_net.18.0", x, 1280, 1, bias=False)))
    maps.append(x)
    for k, (width, hidden) in enumerate(((512, 256), (256, 128), (256, 128), (64, 64))):
        x, _ = inverted_residual(net, f"extras.{k}.conv", x, width, 2, hidden)
        maps.append(x)

    def head(name, x, outputs):
        if x.shape[1] == 64:
            return net.conv(name, x, outputs, 1)
        y = net.conv(f"{name}.0", x, x.shape[1], 3, padding=1, groups=x.shape[1])
        return net.conv(f"{name}.3", relu6(net.norm(f"{name}.1", y)), outputs, 1)

    return jetson_heads(net, maps, (6,) * 6, head)


# --- NVIDIA's ResNet-50 ---------------------------------------------------------------------------


def nvidia(net, images):
    """(B, 4, P) and (B, C, P): shape by shape, and for each shape cell by cell."""
    start = "feature_extractor.feature_extractor"
    x = net.conv(f"{start}.0", images, 64, 7, bias=False, stride=2, padding=3)
    x = max_pool2d(relu(net.norm(f"{start}.1", x)), 3, 2, 1)
    for layer, width, blocks, stride in ((4, 64, 3, 1), (5, 128, 4, 2), (6, 256, 6, 1)):
        for k in range(blocks):
            x = bottleneck(net, f"{start}.{layer}.{k}", x, width, stride if k == 0 else 1)
    maps = [x]
    plan = ((256, 512), (256, 512), (128, 256), (128, 256), (128, 256))
    for k, (middle, outputs) in enumerate(plan):
        name = f"additional_blocks.{k}"
        x = relu(net.norm(f"{name}.1", net.conv(f"{name}.0", x, middle, 1, bias=False)))
        options = HALVE if k < 3 else {}
        x = relu(net.norm(f"{name}.4", net.conv(f"{name}.3", x, outputs, 3, bias=False, **options)))
        maps.append(x)
    found = []
    for name, width in (("loc", 4), ("conf", net.num_classes)):
        heads = [
            net.conv(f"{name}.{k}", x, n * width, 3, padding=1)
            for k, (x, n) in enumerate(zip(maps, SHAPES_OF_MAPS, strict=True))
        ]
        found.append(torch.cat([y.reshape(len(y), width, -1) for y in heads], dim=2))
    return found


def bottleneck(net, name, x, width, stride):
    y = relu(net.norm(f"{name}.bn1", net.conv(f"{name}.conv1", x, width, 1, bias=False)))
    options = {"stride": stride, "padding": 1}
    y = relu(net.norm(f"{name}.bn2", net.conv(f"{name}.conv2", y, width, 3, bias=False, **options)))
    y = net.norm(f"{name}.bn3", net.conv(f"{name}.conv3", y, 4 * width, 1, bias=False))
    if x.shape[1] != 4 * width:
        x = net.conv(f"{name}.downsample.0", x, 4 * width, 1, bias=False, stride=stride)
        x = net.norm(f"{name}.downsample.1", x)
    return relu(x + y)


# --- d2l's TinySSD --------------------------------------------------------------------------------


def d2l(net, images):
    def block(name, x, width):
        for k in (0, 3):
            x = relu(net.norm(f"{name}.{k + 1}", net.conv(f"{name}.{k}", x, width, 3, padding=1)))
        return max_pool2d(x, 2)

    x = images
    for k, width in enumerate((16, 32, 64)):
        x = block(f"blk_0.{k}", x, width)
    maps = [x]
    for k in (1, 2, 3):
        maps.append(block(f"blk_{k}", maps[-1], 128))
    maps.append(adaptive_max_pool2d(maps[-1], 1))
    return net.heads(maps, "bbox_{}", "cls_{}", (4,) * 5)
