"""Networks in files, run in this process: what the backends of this folder share."""
