"""The six tasks: for each model its splits, the samples it is scored on, and its true metric. Runs in the scoreboard's environment.

A feed is {input: array}. Calibration, validation and evaluation are disjoint. Tune to none of these models: others, unseen, must fare as well.
"""

from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np

from scoreboard import files, images, speech, texts


@dataclass
class Task:
    """One model's data and metric. Outputs are the model's first output on all evaluation feeds, joined along axis 0."""

    calibration: list
    validation: list
    labels: Optional[np.ndarray]  # of the validation samples, where true ones exist
    evaluation: list
    timed: dict  # the feed that latency is measured on
    says: str  # what the true metric counts
    correct: Optional[Callable]  # outputs -> per scored sample whether it is right; None where no labels exist
    agrees_by: str  # what agreement with fp32 counts
    agreement: Callable  # (outputs, outputs of fp32) -> share or correlation


def same_class(outputs, reference):
    return float((outputs.argmax(1) == reference.argmax(1)).mean())


def mlp_mnist():
    digits, labels = images.mnist()
    feed = lambda i: {"x": digits[i : i + 1]}
    return Task(
        calibration=[feed(i) for i in range(64)],
        validation=[feed(i) for i in range(3000, 4000)],  # the model was trained on the first 3,000
        labels=labels[3000:4000],
        evaluation=[{"x": digits[4000:]}],
        timed=feed(0),
        says="MNIST top-1, 1,000 digits",
        correct=lambda outputs: outputs.argmax(1) == labels[4000:],
        agrees_by="same digit",
        agreement=same_class,
    )


def ppocr_cls():
    lines, turned = images.lines(864)
    feed = lambda i, count=1: {"x": lines[i : i + count]}
    return Task(
        calibration=[feed(i) for i in range(64)],
        validation=[feed(i) for i in range(464, 864)],
        labels=turned[464:],
        evaluation=[feed(64 + i, 50) for i in range(0, 400, 50)],
        timed=feed(0),
        says="upright or turned, 400 lines of text",
        correct=lambda outputs: outputs.argmax(1) == turned[64:464],
        agrees_by="same side up",
        agreement=same_class,
    )


def silero_seq():
    frames, spoken = speech.frames()
    count, state = len(frames), np.zeros((1, 1, 128), np.float32)
    feed = lambda frames: {"input": frames, "h": state, "c": state}
    rng = np.random.RandomState(0)
    noisy = frames + rng.randn(*frames.shape).astype(np.float32) * 0.01
    reversed_ = frames[:, ::-1] * 0.7 + rng.randn(*frames.shape).astype(np.float32) * 0.003
    heard = lambda outputs: outputs.reshape(-1) > 0.5
    return Task(
        calibration=[feed(noisy[i : i + 64]) for i in range(0, count - 64, 64)],
        validation=[feed(np.ascontiguousarray(reversed_[i : i + 8])) for i in range(0, count - 8, 8)],
        labels=None,
        evaluation=[feed(frames)],
        timed=feed(frames[:32]),
        says=f"speech or none, {count} frames of a recording",
        correct=lambda outputs: heard(outputs) == spoken,
        agrees_by="same verdict",
        agreement=lambda outputs, reference: float((heard(outputs) == heard(reference)).mean()),
    )


def magika():
    (seen, labels), (validated, validated_labels) = files.samples()
    feed = lambda rows: {"bytes": rows}
    right = labels[64:]
    return Task(
        calibration=[feed(seen[i : i + 1]) for i in range(64)],
        validation=[feed(validated[i : i + 1]) for i in range(len(validated))],
        labels=validated_labels,
        evaluation=[feed(seen[i : i + 32]) for i in range(64, len(seen), 32)],
        timed=feed(seen[:1]),
        says=f"file type, {len(right)} files of {len(np.unique(labels))} types",
        correct=lambda outputs: outputs.argmax(1) == right,
        agrees_by="same type",
        agreement=same_class,
    )


def opennsfw():
    seen, validated = images.photos(256, 224, 0), images.photos(128, 224, 1)
    feed = lambda rows: {"input:0": rows}

    def logit(outputs):
        clipped = np.clip(outputs.astype(np.float64), 1e-12, 1)
        return np.log(clipped[:, 1] / clipped[:, 0])

    ranks = lambda values: np.argsort(np.argsort(values))
    return Task(
        calibration=[feed(seen[i : i + 1]) for i in range(48)],
        validation=[feed(validated[i : i + 1]) for i in range(128)],
        labels=None,
        evaluation=[feed(seen[i : i + 16]) for i in range(64, 256, 16)],
        timed=feed(seen[:1]),
        says="no labels",
        correct=None,
        agrees_by="rank correlation of the logit, 192 crops of photographs",
        agreement=lambda outputs, reference: float(np.corrcoef(ranks(logit(outputs)), ranks(logit(reference)))[0, 1]),
    )


def minilm():
    words, positive = texts.vader()
    sentences = lambda some: texts.tokens([f"the feeling of {word}" for word in some])
    scored, fitted = 2400, 1600
    long = "the quick brown fox jumps over the lazy dog while the model is quantized to eight bits and the accuracy is measured against the original one . " * 6

    def probed(outputs):
        """A linear probe is fitted on these very embeddings, as whoever uses the baked model would."""
        from sklearn.linear_model import LogisticRegression

        probe = LogisticRegression(max_iter=300, C=10.0).fit(outputs[:fitted], positive[:fitted])
        return probe.predict(outputs[fitted:]) == positive[fitted:scored]

    nearest = lambda rows: (rows @ rows.T - 2 * np.eye(len(rows))).argmax(1)
    return Task(
        calibration=[sentences(words[i : i + 4]) for i in range(0, 64, 4)],
        validation=[sentences([word]) for word in words[scored : scored + 400]],
        labels=None,
        evaluation=[sentences(words[i : i + 50]) for i in range(0, scored, 50)],
        timed=texts.tokens([long], 128),
        says="sentiment of words by a linear probe, 1,600 fitted, 800 scored",
        correct=probed,
        agrees_by="same nearest neighbour",
        agreement=lambda outputs, reference: float((nearest(outputs) == nearest(reference)).mean()),
    )


TASKS = {make.__name__: make for make in (mlp_mnist, ppocr_cls, silero_seq, magika, opennsfw, minilm)}
