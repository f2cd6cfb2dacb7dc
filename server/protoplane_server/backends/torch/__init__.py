"""Decoder-only transformers on a GPU, or on the processor where there is none, by PyTorch.

The models are those of Llama's architecture. Their KV cache lies in blocks, so that requests share
the blocks of what their prompts have in common (Kwon et al. 2023, PagedAttention), and a router can
be told which blocks are here. Each step computes some tokens of many requests at once: pieces of
the prompts of some, and the next token of others.

| module | what it does |
|---|---|
| `settings` | what a URL ``torch:`` says |
| `config`, `weights` | what a model is made of, at random or from files as Hugging Face has them |
| `model` | tokens to scores |
| `cache` | which block is whose, which can be found, which has to go |
| `scheduler` | what the next step computes |
| `sampling` | scores to tokens |
| `driver` | steps, as long as there is something to write |
| `written`, `text_model` | the tokens of one request; text for a prompt |
| `kv_events` | tells a router what the cache holds |
| `backend` | all of it behind the interface of backends |
"""
