"""The whole pipeline with a small real model and fictional decisions, on a CPU."""
