"""Recipes on the paper's distribution: each claim as a run."""
