"""Side-by-side measurements against peers, runnable by anyone."""
