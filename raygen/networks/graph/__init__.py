"""A network as a graph: its layers, their receptive fields, and the part that a node needs."""
