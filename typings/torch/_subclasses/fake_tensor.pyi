from types import TracebackType

from torch.fx.experimental.symbolic_shapes import ShapeEnv

class FakeTensorMode:
    def __init__(self, *, shape_env: ShapeEnv | None = ...) -> None: ...
    def __enter__(self) -> FakeTensorMode: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
