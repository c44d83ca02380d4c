"""From noise to electrons: the four methods one after the other on the same molecules, every hand-over checked."""
