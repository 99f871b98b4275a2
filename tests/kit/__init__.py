"""What tests share: a clock that only they move, and builders of the real components."""
