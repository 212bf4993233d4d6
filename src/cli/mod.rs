//! The command line: parsing, resolving, printing. No decision of the bake is made here.
