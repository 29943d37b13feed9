//! What df and df-node say to each other
