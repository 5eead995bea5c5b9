"""The state of `lion_cpu.torch.Lion`, and the step of tensors that only PyTorch can move."""

import torch
from lion_cpu._native import convert_momentum, decay_rate
from lion_cpu._torch_checks import NATIVE, STATE, check, check_formats, refuse

# Elements of a momentum of 8 bits that share a scale.
BLOCK = 64


def state_of(optimizer, group, parameter, name):
    """The parameter's state, with what the group's options call for."""
    check_formats(group, parameter, optimizer.state.get(parameter, {}), name)
    state = optimizer.state[parameter]
    like = lambda dtype: torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format)
    wanted = group["exp_avg_dtype"] if parameter.dtype in NATIVE else None
    if wanted == "q8":
        if "exp_avg_scale" not in state:
            momentum = state.get("exp_avg")
            if momentum is not None and momentum.dtype not in NATIVE:
                what = "codes of 8 bits" if momentum.dtype == torch.int8 else f"the dtype {momentum.dtype}"
                raise RuntimeError(f"{name}: its exp_avg has {what}, and its state no exp_avg_scale")
            codes, scales = state["exp_avg"], state["exp_avg_scale"] = _codes(parameter)
            if momentum is not None:
                convert_momentum([momentum.contiguous()], [codes, scales])
    elif "exp_avg" not in state:
        state["exp_avg"] = like(wanted)
    elif wanted is not None and "exp_avg_scale" in state:
        wide = torch.empty(parameter.shape, dtype=torch.float32)
        convert_momentum([state["exp_avg"], state.pop("exp_avg_scale")], [wide])
        state["exp_avg"] = like(wanted).copy_(wide)
    if group["split"] and "low" not in state:
        state["low"] = like(torch.int16)
    wide = None if parameter.dtype in (torch.float64, torch.complex64, torch.complex128) else torch.float32
    if group["gradient_accumulation_steps"] is not None and "accumulator" not in state:
        state["accumulator"] = like(wide)
    if group["ema_momentum"] is not None and "ema" not in state:
        state["ema"] = like(wide)
    return state


def _codes(parameter):
    """An 8-bit momentum of zeros: codes in row-major order, and a scale for each block of them."""
    scales = torch.zeros(-(-parameter.numel() // BLOCK), dtype=torch.float32)
    return torch.zeros(parameter.shape, dtype=torch.int8), scales


def split(values):
    """The nearest bfloat16 of float32 values, ties away from zero, and the low halves of their bits."""
    bits = torch.where(values.isnan(), 0x7FC00000, values.view(torch.int32))
    return (bits + 0x8000 >> 16).to(torch.int16).view(torch.bfloat16), bits.to(torch.int16)


def join(high, low):
    """The float32 values of which these are the halves."""
    return ((high.view(torch.int16).to(torch.int32) << 16) + low).view(torch.float32)


class Kept:
    """A tensor of a state on its way through `Optimizer.load_state_dict`, which would cast it."""

    def __init__(self, key, tensor):
        self.key, self.tensor = key, tensor

    def tensor_for(self, parameter):
        known = self.tensor.dtype in STATE.get(self.key, ())
        if known and (parameter.dtype in NATIVE or not self.tensor.is_floating_point()):
            return self.tensor.to(device=parameter.device)
        if not parameter.is_floating_point():
            return self.tensor.to(device=parameter.device)
        if self.key in STATE:
            return self.tensor.to(dtype=parameter.dtype, device=parameter.device)
        return self.tensor


def keep(optimizer, state_dict):
    """Keeps the dtypes of the state, and the options that the groups of the state do not have."""
    kept = lambda key, value: Kept(key, value) if isinstance(value, torch.Tensor) else value
    state = {
        parameter: {key: kept(key, value) for key, value in values.items()}
        for parameter, values in state_dict["state"].items()
    }
    for number, values in state_dict["state"].items():
        scales = values.get("exp_avg_scale")
        if isinstance(scales, torch.Tensor) and not bool((scales.isfinite() & (scales >= 0)).all()):
            raise ValueError(f"state {number}: an exp_avg_scale is negative or not finite; expected [0, inf)")
    groups = state_dict["param_groups"]
    known = optimizer.defaults
    own = [{key: value for key, value in group.items() if key in known} for group in optimizer.param_groups]
    if len(groups) == len(own):
        groups = [{**ours, **theirs} for ours, theirs in zip(own, groups)]
    return {**state_dict, "state": state, "param_groups": groups}


def foreign_step(optimizer, group, parameter, name, scale):
    """The step by PyTorch's operations, each of which rounds once."""
    gradient = parameter.grad
    refuse(parameter, gradient, name)
    if parameter.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Inplace update to inference tensor outside InferenceMode is not allowed. You can make a clone to get a "
            f"normal tensor before doing inplace update. ({name})"
        )
    lr, (beta_1, beta_2), decay = float(group["lr"]), map(float, group["betas"]), float(group["weight_decay"])
    check(group)
    if group["gradient_accumulation_steps"] is not None or group["ema_momentum"] is not None:
        raise RuntimeError(f"{name}: accumulation and averages need float32, float16 or bfloat16 on the CPU")
    if group["clipnorm"] is not None or group["global_clipnorm"] is not None:
        raise RuntimeError(f"{name}: clipping by a norm needs float32, float16 or bfloat16 on the CPU")
    for option in ("stochastic_rounding", "split"):
        if group[option] not in (None, False):
            raise RuntimeError(f"{name}: {option} needs a bfloat16 parameter on the CPU")
    if group["exp_avg_dtype"] == "q8" or optimizer.state.get(parameter, {}).get("exp_avg_scale") is not None:
        raise RuntimeError(f"{name}: a momentum of 8 bits needs float32, float16 or bfloat16 on the CPU")
    momentum = state_of(optimizer, group, parameter, name)["exp_avg"]
    target = parameter
    if parameter.is_complex():
        target, gradient, momentum = map(torch.view_as_real, (parameter, gradient, momentum))
    wide = torch.float64 if target.dtype == torch.float64 else torch.float32
    gradient, stored, target, momentum_stored = gradient.to(wide, copy=True), target, target.to(wide), momentum
    momentum = momentum.to(wide)
    if scale is not None:
        gradient = gradient / scale
    if group["maximize"]:
        gradient = -gradient
    if group["clipvalue"] is not None:
        gradient = gradient.clamp(-group["clipvalue"], group["clipvalue"])
    rest_1, rest_2 = 1 - beta_1, 1 - beta_2
    if wide == torch.float32 and group["one_minus_beta"] == "f32":
        rest_1, rest_2 = (1 - torch.tensor([beta_1, beta_2], dtype=wide)).tolist()
    direction = momentum * beta_1 + gradient * rest_1
    sign = torch.where(direction.isnan(), direction, direction.sign())
    moved = target
    if decay > 0:
        rate = decay_rate(group["decay_scale"], lr) if group["decay_scale"] != "lr" else lr
        moved = target - (target * decay) * rate
        if group["cautious_decay"]:
            moved = torch.where(sign * target >= 0, moved, target)
    stored.copy_(moved - sign * lr)
    momentum_stored.copy_(momentum * beta_2 + gradient * rest_2)
