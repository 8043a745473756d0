"""What each command does; ``ufo_tune.cli`` imports one of these modules when its command runs."""
