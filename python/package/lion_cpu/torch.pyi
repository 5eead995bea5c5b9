from collections.abc import Callable
from typing import Literal, overload

from torch.optim.optimizer import Optimizer, ParamsT

import torch

class Lion(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 1e-4,
        betas: tuple[float, float] | tuple[torch.Tensor, torch.Tensor] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: Literal[False] = False,
        differentiable: Literal[False] = False,
        exp_avg_dtype: torch.dtype | Literal["q8"] | None = None,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        cautious_decay: bool = False,
        decay_scale: str = "lr",
        stochastic_rounding: int | None = None,
        split: bool = False,
        one_minus_beta: Literal["f32", "f64"] = "f32",
        gradient_accumulation_steps: int | None = None,
        ema_momentum: float | None = None,
        ema_overwrite_frequency: int | None = None,
    ) -> None: ...
    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step_parameter(self, parameter: torch.Tensor) -> None: ...
    def master(self, parameter: torch.Tensor) -> torch.Tensor: ...
    def set_master(self, parameter: torch.Tensor, values: torch.Tensor) -> None: ...
