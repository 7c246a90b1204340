"""What this machine has, what it will do of what was asked, its memory and its processes."""
