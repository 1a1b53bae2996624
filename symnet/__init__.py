"""symnet: the few-shot segmentation benchmark that can be trusted."""

__version__ = "0.1.0"
