"""Texts: the words of the VADER lexicon with what people felt at them, and the sentence encoder's tokens."""

import functools
import zipfile

import numpy as np

from scoreboard import minilm, place


@functools.cache
def vader():
    """Every word of letters alone in the lexicon, shuffled, and whether people rated it as positive."""
    words, positive = [], []
    with open(place.PACKAGES / "vaderSentiment" / "vaderSentiment" / "vader_lexicon.txt", encoding="utf8") as lexicon:
        for line in lexicon:
            word, valence = line.split("\t")[:2]
            if word.isalpha():
                words.append(word)
                positive.append(int(float(valence) > 0))
    order = np.random.RandomState(0).permutation(len(words))
    return [words[i] for i in order], np.asarray(positive)[order]


def words():
    """Words that fit on a line of text."""
    return [word for word in vader()[0] if 3 <= len(word) <= 12]


@functools.cache
def tokenizer():
    from tokenizers import Tokenizer

    return Tokenizer.from_str(zipfile.ZipFile(minilm.ARCHIVE).read("tokenizer.json").decode())


def tokens(sentences, length=32):
    """The feed of the sentence encoder: `length` tokens per sentence, cut or padded."""
    encode = tokenizer()
    encode.no_truncation()
    encode.no_padding()
    encode.enable_truncation(length)
    encode.enable_padding(length=length)
    encoded = encode.encode_batch(sentences)
    return {
        "input_ids": np.asarray([e.ids for e in encoded], np.int64),
        "attention_mask": np.asarray([e.attention_mask for e in encoded], np.int64),
    }
