"""What several test files about PyTorch use."""

import ml_dtypes

from helpers import framework

torch = framework("torch")

from torch.optim.optimizer import (  # noqa: F401
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from lion_cpu.torch import Lion  # noqa: F401

NATIVE = [torch.float32, torch.float16, torch.bfloat16]


def sample(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def to_numpy(tensor):
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def same(one, other):
    """By bits, where any NaN is any NaN."""
    one, other = one.detach().contiguous(), other.detach().contiguous()
    kind = {8: torch.int64, 4: torch.int32, 2: torch.int16}[one.element_size()]
    equal = (one.view(kind) == other.view(kind)) | (one.isnan() & other.isnan())
    return one.dtype == other.dtype and one.shape == other.shape and bool(equal.all())


def parameters(shapes, dtype=torch.float32):
    return [sample(shape, dtype, seed).requires_grad_() for seed, shape in enumerate(shapes)]


def run(optimizer, tensors, steps, dtype=None, seed=100):
    """Steps with random gradients, and returns these."""
    recorded = []
    for step in range(steps):
        for place, tensor in enumerate(tensors):
            tensor.grad = sample(tensor.shape, dtype or tensor.dtype, seed + 1000 * step + place)
        recorded.append([tensor.grad.clone() for tensor in tensors])
        optimizer.step()
    return recorded


SHAPES = [(33, 17), (5,), (70_001,), (), (2, 3, 4, 5)]


def strided(tensor):
    """The tensor with gaps between its elements."""
    wide = torch.empty([side * 2 for side in tensor.shape], dtype=tensor.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in tensor.shape)]
    return view.copy_(tensor)
