"""Networks by name, their weights, and what lies beside the weights."""
