//! A drive as a POSIX filesystem, and its kernel mount. (fs helper)
