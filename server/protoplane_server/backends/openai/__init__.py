"""The backend of a server that speaks OpenAI's HTTP API; the extra ``openai``.

vLLM, SGLang, llama.cpp, Ollama and others do. Source: the API reference
(https://platform.openai.com/docs/api-reference), of which only what all of them have is used.
"""
