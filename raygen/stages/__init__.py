"""The stages as functions, each with the configuration of its command: pretrain, reference, sample, tune, gallery.

``sample`` with ``local`` and everything about networks and data work without Ray; the others import it when they run.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
