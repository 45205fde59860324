"""How a run begins, goes on and is written; updates and losses. It imports all folders and no script."""
