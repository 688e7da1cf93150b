"""Recipes as TOML files; `transpike.experiments.recipe` runs them."""
