package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// truncated returns the first n bytes of data, or all but the last -n.
func truncated(data []byte, count string) ([]byte, error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return nil, err
	}
	if n < 0 {
		n += len(data)
	}
	if n < 0 || n > len(data) {
		return nil, fmt.Errorf("cannot keep %s of %d bytes", count, len(data))
	}
	return data[:n], nil
}

// replaced returns data with the first occurrence of old replaced; \xff in new
// is that byte.
func replaced(data []byte, old, new string) ([]byte, error) {
	new = strings.ReplaceAll(new, `\xff`, "\xff")
	if !bytes.Contains(data, []byte(old)) {
		return nil, fmt.Errorf("%q does not occur", old)
	}
	return bytes.Replace(data, []byte(old), []byte(new), 1), nil
}
