"""Runs a lowered network in time with torch's own operators."""
