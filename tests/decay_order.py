#!/usr/bin/env python3
"""Compares the f32 rounding of lion-pytorch and optax with Keras's, given the same signs. Needs only Python.

All three subtract lr * weight_decay * p and lr * sign from p, but round in different places:
Keras        p = p - (p * wd) * lr, and then p - lr * sign
lion-pytorch p = p * (1 - lr * wd), and then p - lr * sign
optax        p = p + -lr * (sign + wd * p)

Parameters are standard normal, lr is 1e-3 and wd 0.01. Real frameworks differ more: they may use fused multiply-adds,
and their rounding of the moving average may flip signs.
"""

import random
import statistics
from struct import pack, unpack


def f32(value):
    """Rounds to f32. One operation in f64, rounded to f32, equals the operation in f32."""
    return unpack("f", pack("f", value))[0]


LR, WD = f32(1e-3), f32(0.01)
KEPT = f32(1 - 1e-3 * 0.01)


def keras(p, sign):
    return f32(f32(p - f32(f32(p * WD) * LR)) - f32(LR * sign))


def torch(p, sign):
    return f32(f32(p * KEPT) - f32(LR * sign))


def optax(p, sign):
    return f32(p + f32(-LR * f32(sign + f32(WD * p))))


random.seed(0)
for other in torch, optax:
    pairs = [(f32(random.gauss(0, 1)), random.choice((-1.0, 1.0))) for _ in range(100_000)]
    differ = sum(keras(*pair) != other(*pair) for pair in pairs) / len(pairs)
    after = []
    for _ in range(300):
        a = b = f32(random.gauss(0, 1))
        for _ in range(1000):
            sign = random.choice((-1.0, 1.0))
            a, b = keras(a, sign), other(b, sign)
        after.append(abs(a - b))
    print(f"{other.__name__}: {differ:.0%} of parameters differ after a step; after 1000 steps by "
          f"{statistics.median(after):.1e} (median) and {max(after):.1e} (maximum)")
