"""Rules for thresholds."""
