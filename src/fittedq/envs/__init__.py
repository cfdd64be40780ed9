"""Environments: Gymnasium's and JAX's behind one source each."""
