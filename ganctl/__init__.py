"""ganctl: train, resume, sample and look inside self-attention GANs."""

__version__ = "0.1.0"
