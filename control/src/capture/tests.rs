//! Captures of other people's negotiations. Those of the suite were made from two strongSwans that fail (`data/README.md`).
