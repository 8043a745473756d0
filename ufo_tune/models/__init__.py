"""Model families, and UfoModel around them."""
