"""This machine: its hardware, the plan for what it can do, its memory and its processes."""
