"""Speed and size, as ratios and sizes in one run: `make bench`. No test asserts any of these."""
