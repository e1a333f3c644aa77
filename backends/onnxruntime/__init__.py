"""The Triton backend `onnxruntime`, which replaces that of Triton."""
