"""What `molkit bench` runs: plain implementations to compare with, and the code that times both side by side."""
