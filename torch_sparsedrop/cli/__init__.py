"""What the commands share, and ``info``; ``bench`` is a package of its own."""
