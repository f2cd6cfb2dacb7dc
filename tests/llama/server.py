"""A real llama.cpp server for tests, with a tiny model of random weights: ``make llama``.

It runs in the environment that has ``llama-cpp-python``, and imports nothing of the project.

    python tests/llama/server.py PORT FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

MODEL, EMBEDDER = "tiny", "tiny-embed"
CONTEXT = 512
"""Most tokens of a prompt and its answer together."""

_WIDTH, _LAYERS, _HEADS, _FEED = 64, 2, 4, 128
_SPECIAL = ("<unk>", "<s>", "</s>")
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


def write_model(path: Path) -> None:
    """Write a llama model whose vocabulary is letters and bytes, in the GGUF format."""
    import gguf
    import numpy as np

    letters = [chr(code) for code in range(33, 127)] + ["▁"]
    tokens = [*_SPECIAL, *[f"<0x{byte:02X}>" for byte in range(256)], *letters]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * len(letters)]
    random = np.random.default_rng(7)

    def weights(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(
        "{% for message in messages %}{{ message.role }}: {{ message.content }} {% endfor %}"
    )
    head = weights(len(tokens), _WIDTH)
    # A text of letters that has no end of its own, as tests want it.
    head[:259] = 0
    writer.add_tensor("token_embd.weight", weights(len(tokens), _WIDTH))
    writer.add_tensor("output_norm.weight", np.ones(_WIDTH, np.float32))
    writer.add_tensor("output.weight", head)
    for layer in range(_LAYERS):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", np.ones(_WIDTH, np.float32))
        writer.add_tensor(f"{block}.ffn_norm.weight", np.ones(_WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}.{name}.weight", weights(_WIDTH, _WIDTH))
        writer.add_tensor(f"{block}.ffn_gate.weight", weights(_FEED, _WIDTH))
        writer.add_tensor(f"{block}.ffn_up.weight", weights(_FEED, _WIDTH))
        writer.add_tensor(f"{block}.ffn_down.weight", weights(_WIDTH, _FEED))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(port: int, folder: Path) -> None:
    """Serve the model on a port of the loopback."""
    import uvicorn
    from llama_cpp.server.app import create_app
    from llama_cpp.server.settings import ModelSettings, ServerSettings

    path = folder / f"{MODEL}.gguf"
    write_model(path)
    app = create_app(
        server_settings=ServerSettings(host="127.0.0.1", port=port, interrupt_requests=False),
        model_settings=[
            ModelSettings(
                model=str(path),
                model_alias=name,
                n_ctx=CONTEXT,
                n_threads=1,
                embedding=name == EMBEDDER,
            )
            for name in (MODEL, EMBEDDER)
        ],
    )
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
