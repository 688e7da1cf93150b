"""Chooses methods, lags and confidences on training data."""
