"""Recipes on images and on full-size models."""
