"""The benchmarks behind ``raygen bench``."""
