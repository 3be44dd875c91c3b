// Package house holds the test that keeps the imports between llmc's packages
// pointing one way: from the command down to the leaves.
package house
