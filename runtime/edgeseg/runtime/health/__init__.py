"""How the masks are, told without labels: what flickers, how class areas drift, and frames worth a look."""
