//! Which block from which peer next. (lead)
