"""Serves a model repository with the Triton Inference Server of a PyPI wheel.

`python -m server` needs neither Docker nor a GPU. Of the wheel nvidia-pytriton it uses the binaries
(tritonserver and its Python backend), and imports nothing.
"""
