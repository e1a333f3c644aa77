"""Serves a model repository with the Triton Inference Server that a PyPI wheel brings.

No Docker, no GPU: `python -m server`. The wheel of nvidia-pytriton is used for the binaries it
holds (tritonserver and its Python backend); nothing of it is imported.
"""
