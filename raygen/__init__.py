"""raygen draws image samples from any node of any convolutional network, and pretrains such networks generatively.

It implements "Generative Modeling of Convolutional Neural Networks" (Dai, Lu, Wu; ICLR 2015). See README.md.
"""

from importlib.metadata import version

__version__ = version("raygen")
