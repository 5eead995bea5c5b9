"""The protocol of src/lib.rs and the check of src/check.rs, for Python peers."""

import sys
import time

import numpy as np

LEARNING_RATE, BETA_1, BETA_2 = 1e-4, 0.9, 0.99
TOLERANCE = 1e-6


class Peer:
    """An optimizer with one f32 parameter, its gradient and its state. The state starts as zeros."""

    def __init__(self, parameter, gradient):
        raise NotImplementedError

    def set_gradient(self, gradient):
        raise NotImplementedError

    def step(self):
        raise NotImplementedError

    def finish(self):
        """Waits until all steps so far have finished."""

    def parameter(self):
        raise NotImplementedError


def serve(peer_class):
    """Answers the lines of standard input until it ends."""
    # Output that a library prints must not be mistaken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    peer = None
    for line in sys.stdin:
        word, _, number = line.strip().partition(" ")
        try:
            if word == "prepare":
                peer = None
                peer = prepare(peer_class, int(number))
                answer = "ok"
            elif word == "time" and peer is not None:
                answer = repr(timed(peer, int(number)))
            elif word == "release":
                peer = None
                answer = "ok"
            else:
                answer = f"error no answer to {line.strip()!r}"
        except Exception as failure:
            answer = f"error {type(failure).__name__}: {failure}".replace("\n", " ")
        print(answer, file=answers, flush=True)


def timed(peer, steps):
    for _ in range(-(-steps // 10)):
        peer.step()
    peer.finish()
    start = time.perf_counter()
    for _ in range(steps):
        peer.step()
    peer.finish()
    return time.perf_counter() - start


def prepare(peer_class, length):
    """Returns a peer after three steps whose results were checked."""
    index = np.arange(length)
    parameter = 1 + (index % 7).astype(np.float32) / 8
    first = (index % 13).astype(np.float32) / 6 - 1
    then = first * np.where(index % 2 == 0, np.float32(-0.05), np.float32(-0.2))
    del index
    peer = peer_class(parameter, first)
    peer.step()
    peer.set_gradient(then)
    peer.step()
    peer.step()
    found = peer.parameter()
    check(found, parameter, first, then)
    return peer


def check(found, parameter, first, then):
    if found.shape != parameter.shape:
        raise ValueError(f"wrong: shape {found.shape} and not {parameter.shape}")
    # In pieces, because the formula needs temporaries.
    for start in range(0, len(found), 1 << 20):
        piece = slice(start, start + (1 << 20))
        expected = lion(parameter[piece], first[piece], then[piece])
        # Written so that a NaN counts as wrong.
        wrong = np.flatnonzero(~(np.abs(found[piece] - expected) <= TOLERANCE))
        if wrong.size:
            at = wrong[0]
            raise ValueError(f"wrong: element {start + at} is {found[piece][at]} and should be {expected[at]}")


def lion(parameter, first, then):
    """Returns the parameter after three steps of Lion without weight decay."""
    p, m = parameter.astype(np.float64), 0.0
    for g in (first, then, then):
        g = g.astype(np.float64)
        p = p - LEARNING_RATE * np.sign(BETA_1 * m + (1 - BETA_1) * g)
        m = BETA_2 * m + (1 - BETA_2) * g
    return p.astype(np.float32)
