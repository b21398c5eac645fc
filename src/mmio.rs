//! The only register loads and stores.
