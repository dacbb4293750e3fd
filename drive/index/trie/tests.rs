//! Replays of what the reference recorded, a model, and signed nonsense.
