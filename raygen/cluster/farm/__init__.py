"""The farm: a pool of Ray actors that samples the units of a run."""
