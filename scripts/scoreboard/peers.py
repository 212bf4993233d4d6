"""One bake by one peer, in this process: prints one JSON line with its seconds, its peak memory and its error. Runs in the scoreboard's environment.

usage: peers.py TASK PEER OUT

A peer is a function that loads its library and returns the work: (model, calibration feeds, out) -> None. Loading is timed apart. A peer is given what Bakehouse is given.
"""

import json
import pathlib
import resource
import sys
import time
import traceback


def dynamic(per_channel):
    def load():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        return lambda model, feeds, out: quantize_dynamic(model, out, per_channel=per_channel, weight_type=QuantType.QInt8)

    return load


def quantizer():
    """ONNX Runtime's static quantisation by the smallest and largest value seen: QDQ, weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self, feeds):
            self.feeds = iter(feeds)

        def get_next(self):
            return next(self.feeds, None)

    def quantize(model, feeds, out, **more):
        quantize_static(
            model,
            out,
            Reader(feeds),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            per_channel=True,
            **more,
        )

    return quantize


def static():
    from onnxruntime.quantization import shape_inference

    quantize = quantizer()

    def work(model, feeds, out):
        prepared = f"{out}.prepared"
        shape_inference.quant_pre_process(model, prepared)
        quantize(prepared, feeds, out)

    return work


def static_expert():
    """Simplified, lifted to opset 17, simplified again; products and convolutions only."""
    import onnx
    import onnxsim
    from onnx import version_converter
    from onnxruntime.quantization import shape_inference

    quantize = quantizer()

    def work(model, feeds, out):
        prepared = f"{out}.prepared"
        simple, _ = onnxsim.simplify(onnx.load(model))
        simple, _ = onnxsim.simplify(version_converter.convert_version(simple, 17))
        onnx.save(simple, prepared)
        shape_inference.quant_pre_process(prepared, prepared, skip_symbolic_shape=True)
        quantize(prepared, feeds, out, op_types_to_quantize=["MatMul", "Gemm", "Conv"])

    return work


def slimmed():
    import onnxslim

    return lambda model, feeds, out: onnxslim.slim(model, out)


def simplified():
    import onnx
    import onnxsim

    return lambda model, feeds, out: onnx.save(onnxsim.simplify(onnx.load(model))[0], out)


def automatic():
    """onnxsim's own search for a quantisation that keeps quality. What no node reads any more is taken out: it leaves the float weights in."""
    import onnx
    import onnxsim

    def work(model, feeds, out):
        simple, _ = onnxsim.simplify(onnx.load(model))
        quantized = onnxsim.quantize_auto(simple, calibration_data=feeds[:16])
        read = {name for node in quantized.graph.node for name in node.input} | {output.name for output in quantized.graph.output}
        kept = [initializer for initializer in quantized.graph.initializer if initializer.name in read]
        del quantized.graph.initializer[:]
        quantized.graph.initializer.extend(kept)
        onnx.save(quantized, out)

    return work


def optimized():
    import onnxruntime

    def work(model, feeds, out):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = out
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    return work


# {name: (what it is, how it is loaded)}
PEERS = {
    "dyn": ("ONNX Runtime quantize_dynamic", dynamic(per_channel=False)),
    "dyn_pc": ("ONNX Runtime quantize_dynamic, per channel", dynamic(per_channel=True)),
    "st_minmax": ("ONNX Runtime quantize_static, MinMax, per channel, QDQ, after quant_pre_process", static),
    "st3_minmax_mm": ("the same on a graph that onnxsim simplified and lifted to opset 17, MatMul, Gemm and Conv only", static_expert),
    "onnxslim": ("onnxslim", slimmed),
    "onnxsim": ("onnxsim simplify", simplified),
    "onnxsim_auto": ("onnxsim quantize_auto after simplify", automatic),
    "ort_ext": ("ONNX Runtime's own graph optimisations, extended, saved", optimized),
}


def main():
    from scoreboard import place

    task, peer, out = sys.argv[1:]
    feeds = calibration(place.split(task, "calibration"))
    began = time.perf_counter()
    result = {"error": None}
    # A library may raise anything, SystemExit included; each is a row of the table.
    try:
        work = PEERS[peer][1]()
        loaded = time.perf_counter()
        result["loadSeconds"] = loaded - began
        work(str(place.model(task)), feeds, out)
        result["seconds"] = time.perf_counter() - loaded
    except BaseException as error:
        result["error"] = f"{type(error).__name__}: {error}" if str(error) else f"{type(error).__name__} in {place_of(error)}"
    pathlib.Path(f"{out}.prepared").unlink(missing_ok=True)
    result["peakBytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print()
    print(json.dumps(result))


def place_of(error):
    """Where an error without words was raised."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{last.name}, {pathlib.Path(last.filename).name}:{last.lineno}: {last.line}"


def calibration(path):
    import numpy as np

    with np.load(path) as arrays:
        arrays = dict(arrays)
    return [{name: rows[i] for name, rows in arrays.items()} for i in range(len(next(iter(arrays.values()))))]


if __name__ == "__main__":
    main()
