"""What each method places, trains and searches: one file each; `table` lists them."""
