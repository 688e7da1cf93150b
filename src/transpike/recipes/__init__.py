"""Recipes as TOML files; `transpike.recipe` runs them."""
