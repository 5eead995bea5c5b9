from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Protocol, TypeAlias

import numpy

__version__: str

class _Dlpack(Protocol):
    def __dlpack__(self) -> Any: ...

_Array: TypeAlias = numpy.ndarray[Any, Any] | _Dlpack
_Path: TypeAlias = str | PathLike[str]
_Number: TypeAlias = float | Schedule | Callable[[int], float] | Mapping[str, Any]
_Option: TypeAlias = None | bool | float | str | Sequence[str] | _Number
_Config: TypeAlias = _Path | Mapping[str, Any]

class Schedule:
    def __init__(self, class_name: str, /, **config: Any) -> None: ...
    @staticmethod
    def from_dict(serialized: Mapping[str, Any]) -> Schedule: ...
    @property
    def class_name(self) -> str: ...
    def __call__(self, step: int) -> float: ...

class Constraint:
    @staticmethod
    def non_negative() -> Constraint: ...
    @staticmethod
    def max_norm(max_value: float = 2.0, axis: int | Sequence[int] | None = None) -> Constraint: ...
    @staticmethod
    def unit_norm(axis: int | Sequence[int] | None = None) -> Constraint: ...
    @staticmethod
    def min_max_norm(
        min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: int | Sequence[int] | None = None
    ) -> Constraint: ...

class Metrics:
    @property
    def outcome(self) -> str: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def loss_scale(self) -> float | None: ...
    @property
    def gradient_norm(self) -> float | None: ...
    @property
    def clipped_norm(self) -> float | None: ...
    @property
    def clipped(self) -> bool | None: ...
    @property
    def non_finite(self) -> int | None: ...

class Lion:
    def __init__(
        self,
        parameters: Mapping[str, _Array] | None = None,
        /,
        *,
        config: _Config | None = None,
        isa: str | None = None,
        threads: int | None = None,
        chunk: int | None = None,
        profile: _Path | None = None,
        **options: _Option,
    ) -> None: ...
    def add(
        self,
        name: str,
        array: _Array,
        *,
        group: int = 0,
        momentum_dtype: str | None = None,
        exclude_from_weight_decay: bool = False,
        overwrite_with_gradient: bool = False,
        constraint: Constraint | None = None,
    ) -> None: ...
    def add_group(self, **overrides: _Number | None) -> int: ...
    def set_group(self, index: int, /, **overrides: _Number | None) -> None: ...
    def step(self, gradients: Mapping[str, _Array | None]) -> Metrics: ...
    def finalize(self) -> None: ...
    def set(self, name: str, value: _Option) -> None: ...
    def get(self, name: str) -> Any: ...
    def to_json(self, *, keras: bool = False) -> str: ...
    learning_rate: float
    iterations: int
    @property
    def dynamic_loss_scale(self) -> tuple[float, int] | None: ...
    @property
    def isa(self) -> str: ...
    def scale_loss(self, loss: float) -> float: ...
    @property
    def parameters(self) -> dict[str, _Array]: ...
    def state(self, name: str) -> dict[str, numpy.ndarray[Any, Any]]: ...
    def set_state(self, name: str, **tensors: _Array) -> None: ...
    def stalled(self, name: str) -> float: ...
    def sign_agreement(self, name: str, gradient: _Array) -> float: ...
    def save(self, path: _Path, *, parameters: bool = True) -> None: ...
    def load(self, path: _Path, *, parameters: bool = True) -> None: ...
    def import_momentum(
        self, path: _Path, names: str | Iterable[str], *, rename: Iterable[tuple[str, str]] | None = None
    ) -> None: ...

class KerasSteps:
    def __init__(self, functions: tuple[int, int]) -> None: ...
    def step(
        self,
        variables: list[tuple[Any, Any | None, Any | None, Any | None, Any | None, bool]],
        *,
        learning_rate: float,
        beta_1: float,
        beta_2: float,
        weight_decay: float | None = None,
        clip: tuple[str, float] | None = None,
        accumulation: tuple[int, bool] | None = None,
        ema: tuple[float, bool] | None = None,
    ) -> None: ...

class TorchSteps:
    def __init__(
        self,
        tensor: type,
        count_modes: Callable[[], int],
        increment_version: Callable[[list[Any]], None],
        functions: tuple[int, int],
    ) -> None: ...
    def prepare(
        self,
        entries: list[tuple[int, Any, dict[str, Any], str, str]],
        idle: list[Any],
        groups: list[dict[str, Any]],
        state: dict[Any, Any],
    ) -> None: ...
    def step(
        self, groups: list[dict[str, Any]], state: dict[Any, Any], scale: float | None = None, only: Any = None
    ) -> bool: ...

def convert_momentum(source: list[Any], target: list[Any]) -> None: ...
def jax_handler() -> int: ...
def decay_rate(scale: str, learning_rate: float) -> float: ...
def replay(
    input: _Path,
    output: _Path,
    *,
    config: _Config | None = None,
    state: _Path | None = None,
    finalize: bool = False,
    isa: str | None = None,
    threads: int | None = None,
    chunk: int | None = None,
    profile: _Path | None = None,
    **options: _Option,
) -> None: ...
def tune(
    *,
    level: str = "quick",
    time_limit: float | None = None,
    operations: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    threads: int | None = None,
    output: _Path | None = None,
    dry_run: bool = False,
) -> str: ...
def doctor() -> str: ...
def options() -> dict[str, dict[str, Any]]: ...
