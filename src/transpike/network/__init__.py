"""The converted network as an ``nn.Module``."""
