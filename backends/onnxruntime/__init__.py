"""The Triton backend `onnxruntime`, in place of Triton's own."""
