"""What `lion_cpu.torch.Lion` refuses, in PyTorch's words, and which tensors take the native step."""

import torch
from lion_cpu._native import decay_rate

NATIVE = (torch.float32, torch.float16, torch.bfloat16)
# The state, and the dtypes that it may have where the native step takes it.
STATE = {
    "exp_avg": (*NATIVE, torch.int8),
    "accumulator": (torch.float32,),
    "ema": (torch.float32,),
    "low": (torch.int16,),
    "exp_avg_scale": (torch.float32,),
}
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def check(group):
    """Refuses hyperparameters in PyTorch's words."""
    if group["capturable"] or group["differentiable"]:
        raise RuntimeError(f"Lion does not support {'capturable' if group['capturable'] else 'differentiable'}")
    if group["fused"] and group["foreach"]:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    lr = group["lr"]
    if isinstance(lr, torch.Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not 0.0 <= lr or not float(lr) < float("inf"):
        raise ValueError(f"Invalid learning rate: {lr}")
    if len({isinstance(beta, torch.Tensor) for beta in group["betas"]}) > 1:
        raise ValueError("betas must be either both floats or both Tensors")
    for index, beta in enumerate(group["betas"]):
        if not 0.0 <= beta <= 1.0:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
    if not 0.0 <= group["weight_decay"] < float("inf"):
        raise ValueError(f"Invalid weight_decay value: {group['weight_decay']}")
    clips = [name for name in ("clipvalue", "clipnorm", "global_clipnorm") if group[name] is not None]
    if len(clips) > 1:
        raise ValueError(f"at most one of the clips may be set, not {' and '.join(clips)}")
    for name in clips:
        if not 0.0 < group[name] < float("inf"):
            raise ValueError(f"Invalid {name} value: {group[name]}")
    if group["one_minus_beta"] not in ("f32", "f64"):
        raise ValueError(f"Invalid one_minus_beta value: {group['one_minus_beta']}; expected 'f32' or 'f64'")
    try:
        decay_rate(group["decay_scale"], 0.0)
    except ValueError as error:
        raise ValueError(f"Invalid decay_scale value: {error}") from None
    seed = group["stochastic_rounding"]
    if seed is not None and not (isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 1 << 64):
        raise ValueError(f"Invalid stochastic_rounding value: {seed}; expected a seed, 0 to 2**64 - 1")
    if not isinstance(group["split"], bool):
        raise ValueError(f"Invalid split value: {group['split']}; expected True or False")
    if group["split"] and seed is not None:
        raise ValueError("stochastic_rounding and split cannot be set together: a split parameter is not rounded")
    if group["exp_avg_dtype"] not in (None, "q8", *NATIVE):
        raise ValueError(f"Invalid exp_avg_dtype value: {group['exp_avg_dtype']}")
    steps = group["gradient_accumulation_steps"]
    if steps is not None and not (isinstance(steps, int) and 2 <= steps <= 1 << 24):
        raise ValueError(f"Invalid gradient_accumulation_steps value: {steps}")
    if group["ema_momentum"] is not None and not 0.0 <= group["ema_momentum"] <= 1.0:
        raise ValueError(f"Invalid ema_momentum value: {group['ema_momentum']}")
    frequency = group["ema_overwrite_frequency"]
    if frequency is not None and not (isinstance(frequency, int) and frequency > 0):
        raise ValueError(f"Invalid ema_overwrite_frequency value: {frequency}")


def check_formats(group, parameter, state, name):
    """Refuses formats that the parameter or its state cannot have."""
    for option in ("stochastic_rounding", "split"):
        if group[option] not in (None, False) and parameter.dtype != torch.bfloat16:
            raise RuntimeError(f"{name}: {option} needs a parameter of torch.bfloat16, but got {parameter.dtype}")
    if "low" in state and not group["split"]:
        raise RuntimeError(f"{name}: its state has the low half of a split parameter; expected split=True")


def refuse(parameter, gradient, name):
    """Refuses gradients that no step can take, in PyTorch's words."""
    if gradient.layout != torch.strided and gradient.layout != parameter.layout or gradient.is_sparse:
        raise RuntimeError(f"Lion does not support sparse gradients ({name})")
    if gradient.shape != parameter.shape:
        raise RuntimeError(
            f"{name}: the gradient has the shape {list(gradient.shape)}, and the parameter {list(parameter.shape)}"
        )
    if gradient.device != parameter.device:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {parameter.device} and "
            f"{gradient.device}! ({name})"
        )
    if not (parameter.is_floating_point() or parameter.is_complex()):
        raise RuntimeError(f"{name}: expected a floating point or complex dtype, but got {parameter.dtype}")


def _is_plain(tensor, dtypes=NATIVE):
    return (
        type(tensor) in _PLAIN
        and tensor.dtype in dtypes
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.is_inference()
        and not tensor.is_neg()
    )


def is_native(parameter, gradient, state, group):
    if not _is_plain(parameter) or not _fits(parameter):
        return False
    if gradient is not None and not (
        type(gradient) is torch.Tensor
        and gradient.dtype in NATIVE
        and gradient.device.type == "cpu"
        and gradient.layout == torch.strided
        and _fits(gradient)
    ):
        return False
    return all(
        _is_plain(state[key], dtypes) and _fits(state[key]) for key, dtypes in STATE.items() if state and key in state
    )


def _fits(tensor):
    """Whether the tensor's memory holds all of its elements. Its storage may have been resized."""
    if tensor.numel() == 0:
        return True
    last = sum((side - 1) * stride for side, stride in zip(tensor.shape, tensor.stride()))
    end = (tensor.storage_offset() + last + 1) * tensor.element_size()
    if tensor.untyped_storage().nbytes() < end or tensor.data_ptr() == 0:
        raise RuntimeError(
            f"a tensor of the shape {list(tensor.shape)} needs {end} bytes of storage, and has "
            f"{tensor.untyped_storage().nbytes()}"
        )
    return True
