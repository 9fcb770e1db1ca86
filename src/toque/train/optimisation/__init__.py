"""Optimisers by name, and what they follow as functions of images seen: rates, freezing."""
