"""OpenAI's API in front of the gateway's own calls."""
