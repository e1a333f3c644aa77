"""The Triton backend `tensorrt_rtx`."""
