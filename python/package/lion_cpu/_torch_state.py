"""The state of `lion_cpu.torch.Lion`, and the step of tensors that only PyTorch can move."""

import torch
from lion_cpu._torch_checks import NATIVE, STATE, check, refuse


def state_of(optimizer, group, parameter):
    """The parameter's state, with what the group's options call for."""
    state = optimizer.state[parameter]
    like = lambda dtype: torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format)
    if "exp_avg" not in state:
        native = parameter.dtype in NATIVE
        state["exp_avg"] = like(group["exp_avg_dtype"] if native else None)
    wide = None if parameter.dtype in (torch.float64, torch.complex64, torch.complex128) else torch.float32
    if group["gradient_accumulation_steps"] is not None and "accumulator" not in state:
        state["accumulator"] = like(wide)
    if group["ema_momentum"] is not None and "ema" not in state:
        state["ema"] = like(wide)
    return state


class Kept:
    """A tensor of a state on its way through `Optimizer.load_state_dict`, which would cast it."""

    def __init__(self, key, tensor):
        self.key, self.tensor = key, tensor

    def tensor_for(self, parameter):
        known = self.key == "exp_avg" and self.tensor.dtype in NATIVE and parameter.dtype in NATIVE
        wide = self.key in ("accumulator", "ema") and self.tensor.dtype == torch.float32
        if known or wide and parameter.dtype in NATIVE or not parameter.is_floating_point():
            return self.tensor.to(device=parameter.device)
        if self.key in STATE:
            return self.tensor.to(dtype=parameter.dtype, device=parameter.device)
        return self.tensor


def keep_dtypes(optimizer, state_dict):
    kept = lambda key, value: Kept(key, value) if isinstance(value, torch.Tensor) else value
    state = {
        parameter: {key: kept(key, value) for key, value in values.items()}
        for parameter, values in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


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
    momentum = state_of(optimizer, group, parameter)["exp_avg"]
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
        moved = target - (target * decay) * lr
        if group["cautious_decay"]:
            moved = torch.where(sign * target >= 0, moved, target)
    stored.copy_(moved - sign * lr)
    momentum_stored.copy_(momentum * beta_2 + gradient * rest_2)
