"""The tests of jobbus; a package, so that they can import the servers beside them."""
