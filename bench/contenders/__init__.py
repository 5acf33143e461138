"""What bench/training.py compares: each contender trains in a process of its own, an epoch whenever it is its turn."""
