"""Scores beyond IoU, and the pictures that show them."""
