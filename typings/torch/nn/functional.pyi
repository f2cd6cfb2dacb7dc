from torch import Tensor

def embedding(input: Tensor, weight: Tensor) -> Tensor: ...
def linear(input: Tensor, weight: Tensor) -> Tensor: ...
def rms_norm(
    input: Tensor, normalized_shape: tuple[int, ...], weight: Tensor, eps: float
) -> Tensor: ...
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = ...,
    *,
    is_causal: bool = ...,
    enable_gqa: bool = ...,
) -> Tensor: ...
def silu(input: Tensor) -> Tensor: ...
