"""Bounds on max q that hold for certain."""
