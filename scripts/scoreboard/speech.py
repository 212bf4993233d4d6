"""Speech: a recording with who speaks when, from the package of a diarisation toolkit."""

import wave

import numpy as np

from scoreboard import place

SAMPLE = place.PACKAGES / "pyannote.audio" / "pyannote" / "audio" / "sample"
FRAME, CONTEXT, RATE = 512, 64, 16000


def frames():
    """(n, 576): frames of 32 ms, each led by the last 64 samples of the one before, and for each whether someone speaks at its middle."""
    with wave.open(str(SAMPLE / "sample.wav")) as recording:
        if recording.getframerate() != RATE:
            raise ValueError(f"{SAMPLE}/sample.wav has {recording.getframerate()} samples a second, not {RATE}")
        sound = np.frombuffer(recording.readframes(recording.getnframes()), np.int16).astype(np.float32) / 32768.0
    count = len(sound) // FRAME
    led = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    cut = np.asarray([led[i * FRAME : i * FRAME + CONTEXT + FRAME] for i in range(count)])
    middles = (np.arange(count) + 0.5) * (FRAME / RATE)
    spoken = np.zeros(count, bool)
    for line in (SAMPLE / "sample.rttm").read_text().splitlines():
        start, lasts = map(float, line.split()[3:5])
        spoken |= (middles >= start) & (middles < start + lasts)
    return cut, spoken
