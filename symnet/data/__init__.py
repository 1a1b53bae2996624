"""Images, masks, folds and episodes."""
