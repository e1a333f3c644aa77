"""The command `maisi-triton`, which serves and exports models without a checkout.

For each of its commands, it makes a Python environment in the user's cache. The command runs in
this environment from the folders in `tree`, which are the folders of the repository.
"""
