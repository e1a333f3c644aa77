"""The Triton backend `slabs`: convolutional networks of any size in bounded memory, exactly."""
