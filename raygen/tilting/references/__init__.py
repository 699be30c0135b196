"""Reference distributions q, each an exact whitening map x = mean + A z with z ~ N(0, I).

``z`` and ``x`` have the shape (N, C, H, W). The maps are linear torch operations, so automatic differentiation
carries a score's gradient through them exactly.
"""
