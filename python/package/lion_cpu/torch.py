"""A drop-in for `torch.optim`: Lion on CPU tensors, in place and without a copy.

Tensors of float32, float16 and bfloat16 take the native step. All others (float64, complex, other devices, subclasses
such as DTensor) take PyTorch's operations in the same order. One optimizer may hold any mixture.
"""

import inspect

from torch.optim import Optimizer
from torch.optim import optimizer as _base

import torch
from lion_cpu._native import Calls, TorchSteps
from lion_cpu._torch_checks import check, is_native, refuse
from lion_cpu._torch_parallel import living_threads, parallel_functions
from lion_cpu._torch_state import Kept, foreign_step, join, keep, split, state_of

__all__ = ["Lion"]


class Lion(Optimizer):
    """The Lion optimizer.

    `params`, `lr`, `betas` and `weight_decay` are those of lion-pytorch and timm, and so is the state, `exp_avg`.

    Args:
        exp_avg_dtype: the dtype of the momentum, or "q8" for codes of 8 bits; the parameter's if None.
        clipvalue, clipnorm, global_clipnorm: at most one; clips each element, each gradient by its own norm, or all
            gradients of the groups that have it by their joint norm.
        cautious_decay: decays an element only if the step moves it towards zero, or not at all.
        decay_scale: what the decay is multiplied by: "lr", "relative:TO" (lr / TO) or "corrected:TO" (lr * lr / TO).
        stochastic_rounding: a seed; rounds bfloat16 parameters up or down at random, right on average. The draws follow
            from the seed, the parameter's name or number, its step and the element.
        split: keeps the low half of a bfloat16 parameter in the state, which makes it a float32 one, bit for bit.
        one_minus_beta: "f32" forms `1 - beta` as Keras does, "f64" as PyTorch's Lions do, whose momenta differ by 1e-6.
        gradient_accumulation_steps: averages the gradients of so many steps for one update.
        ema_momentum: keeps a moving average of each parameter, `state[p]["ema"]`.
        ema_overwrite_frequency: writes the average to the parameter after every so many updates.
        foreach, fused: taken and ignored; the step is fused wherever it can be.
    """

    # GradScaler passes its scale, and the step divides gradients by it.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        params,
        lr=1e-4,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        *,
        maximize=False,
        foreach=None,
        fused=None,
        capturable=False,
        differentiable=False,
        exp_avg_dtype=None,
        clipvalue=None,
        clipnorm=None,
        global_clipnorm=None,
        cautious_decay=False,
        decay_scale="lr",
        stochastic_rounding=None,
        split=False,
        one_minus_beta="f32",
        gradient_accumulation_steps=None,
        ema_momentum=None,
        ema_overwrite_frequency=None,
    ):
        given = locals()
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        defaults |= {option: given[option] for option in _OPTIONS}
        check(defaults)
        self._calls = Calls()
        self._reset()
        super().__init__(params, defaults)

    def add_param_group(self, param_group):
        self._check_whole()
        super().add_param_group(param_group)
        try:
            check(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise
        self._reset()

    def __getstate__(self):
        self._check_whole()
        return super().__getstate__()

    def __setstate__(self, state):
        super().__setstate__(state)
        for group in self.param_groups:
            for key, value in _OPTIONS.items():
                group.setdefault(key, value)
        for parameter, values in self.state.items():
            for key, value in values.items():
                if isinstance(value, Kept):
                    values[key] = value.tensor_for(parameter)
        self._calls = Calls()
        self._reset()

    def state_dict(self):
        self._check_whole()
        return super().state_dict()

    def load_state_dict(self, state_dict):
        """Loads a state, also of lion-pytorch or timm. The momentum keeps the dtype that it was saved with.

        Options that the state does not have stay as they are.
        """
        handle = self.register_load_state_dict_pre_hook(keep)
        try:
            with living_threads():
                super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def step(self, closure=None):
        """Performs a single optimization step.

        Args:
            closure (Callable, optional): A closure that reevaluates the model and returns the loss.
        """
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _base._global_optimizer_pre_hooks
            or _base._global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        ):
            return _hooked_step(self, closure) if closure is not None else _hooked_step(self)
        return _step(self, closure)

    # `step` itself runs hooks and profiling.
    step.hooked = True

    def step_parameter(self, parameter):
        """Steps one parameter, for hooks that run when its gradient has been accumulated.

        A joint norm (`global_clipnorm`) is then that of its gradient alone.
        """
        if parameter.grad is not None:
            self._run(None, parameter)

    def master(self, parameter):
        """Returns a parameter in float32. Of one that is split these are the values that the steps move."""
        self._check_whole()
        low = self.state.get(parameter, {}).get("low")
        with living_threads():
            return parameter.detach().float() if low is None else join(parameter.detach(), low)

    def set_master(self, parameter, values):
        """Overwrites a parameter that is split with values in float32."""
        group = next(group for group in self.param_groups if any(parameter is own for own in group["params"]))
        if not group["split"]:
            raise RuntimeError("set_master needs a parameter of a group with split=True")
        if values.shape != parameter.shape:
            raise ValueError(f"values has the shape {list(values.shape)}, and the parameter {list(parameter.shape)}")
        self._check_whole()
        with torch.no_grad(), self._calls, living_threads():
            state = state_of(self, group, parameter, "parameter")
            high, low = split(values.detach().to(torch.float32))
            parameter.copy_(high)
            state["low"].copy_(low)

    def _check_whole(self):
        """Raises if the process was forked while another thread was in a call of this optimizer."""
        self._calls.check()
        if self._steps is not None:
            self._steps.check()

    def _reset(self):
        self._steps = None
        self._foreign = ()

    def _run(self, scale, only=None):
        """Steps, after preparing a new list if something has changed."""
        steps, native = self._steps, not self._foreign
        if native and steps is not None and steps.step(self.param_groups, self.state, scale, only):
            return
        with torch.no_grad(), self._calls, living_threads():
            if native or not steps.step(self.param_groups, self.state, scale, only):
                # Otherwise the native list holds no tensor of this call.
                if not self._prepare(only) and not self._steps.step(self.param_groups, self.state, scale, only):
                    raise RuntimeError("tensors of the optimizer changed while the step was prepared")
            for group, parameter, name in self._foreign:
                if parameter.grad is not None and (only is None or only is parameter):
                    foreign_step(self, group, parameter, name, scale)

    def _prepare(self, only):
        """Makes the lists of native steps and of others. Returns whether `only` is one of the others."""
        entries, idle, foreign, number = [], [], [], 0
        for index, group in enumerate(self.param_groups):
            names = group.get("param_names")
            for place, parameter in enumerate(group["params"]):
                name = f"parameter {names[place] if names else place} of group {index}"
                key = names[place] if names else str(number)
                number += 1
                gradient = parameter.grad
                if gradient is not None:
                    refuse(parameter, gradient, name)
                state = self.state.get(parameter)
                if not is_native(parameter, gradient, state, group):
                    foreign.append((group, parameter, name))
                elif gradient is None and not state:
                    idle.append(parameter)
                else:
                    entries.append((index, parameter, state_of(self, group, parameter, name), name, key))
        if self._steps is None:
            count_modes, bump = torch._C._len_torch_function_stack, torch._C._increment_version
            self._steps = TorchSteps(torch.Tensor, count_modes, bump, parallel_functions())
        self._foreign = tuple(foreign)
        self._steps.prepare(entries, idle, self.param_groups, self.state)
        return only is not None and any(only is parameter for _, parameter, _ in foreign)


_KEYWORDS = inspect.Parameter.KEYWORD_ONLY
_OPTIONS = {name: it.default for name, it in inspect.signature(Lion).parameters.items() if it.kind is _KEYWORDS}


def _step(self, closure=None):
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    scale = None
    if "found_inf" in self.__dict__:
        if self.found_inf is not None and float(self.found_inf) != 0:
            return loss
        scale = self.__dict__.get("grad_scale")
        scale = None if scale is None else float(scale)
    self._run(scale)
    return loss


_hooked_step = Optimizer.profile_hook_step(_step)
