"""What a conversion cost, and why."""

from transpike.analysis.convergence import site_errors

__all__ = ["site_errors"]
