"""How truth becomes a dialogue, and a generation a prediction."""
