//! Makes an executable hot-reloadable: listeners by name, readiness, draining
