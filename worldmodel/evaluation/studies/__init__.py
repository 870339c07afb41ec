"""Questions that a drift curve does not answer: whether memory is used, undone, misled, and whether actions count."""
