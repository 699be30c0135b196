"""Reference distributions q, each an exact map of z ~ N(0, I): x = mean + A z, or bounded by a logistic map after it.

``z`` and ``x`` have the shape (N, C, H, W). The maps are torch operations, so automatic differentiation carries a
score's gradient through them exactly.
"""
