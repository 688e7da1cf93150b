"""Trains, converts and evaluates what a table needs."""
