"""The commands as functions: pretrain, reference, tune, sample, gallery, with their configurations; status, verify.

``sample`` with ``local`` and everything about networks and data work without Ray; the others import it when they run.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
