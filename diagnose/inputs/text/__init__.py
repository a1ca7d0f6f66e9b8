"""Text as samples: tokens, blocks, rows cut to a length."""
