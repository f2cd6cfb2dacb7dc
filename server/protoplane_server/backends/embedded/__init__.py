"""The default backend: a toy character model and a lexical embedder, by numpy alone.

They show what stands behind a real interface when nothing else is at hand; they do not write or
understand well. ``char_gru.npz`` was made by ``tools/train_embedded.py`` from the documentation and
the docstrings of this project, and is under its licence. Its loss is 1.67 nats a character on text
that it has not seen, where knowing nothing is 4.57.
"""
