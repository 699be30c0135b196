"""What makes CPUs fast: the same results by other ways."""
