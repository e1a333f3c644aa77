"""Serve a model repository with the Triton Inference Server of a PyPI wheel.

`python -m server` needs neither Docker nor a GPU. It uses the binaries in the wheel nvidia-pytriton
(tritonserver and its Python backend), but imports nothing from the wheel.
"""
