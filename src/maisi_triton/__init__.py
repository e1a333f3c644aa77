"""The command `maisi-triton`: serves and exports models without a checkout of the repository.

It makes an environment of Python in the user's cache for each of its commands, and runs the command
there from the folders in `tree`, which are those of the repository.
"""
