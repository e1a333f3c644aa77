"""The Triton backend `slabs`: convolutional networks on volumes of any size, in bounded memory."""
