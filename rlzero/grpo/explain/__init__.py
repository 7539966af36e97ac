"""What a recipe will do, and about what it will cost, before anything is loaded: `rlzero explain`."""
