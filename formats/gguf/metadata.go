package gguf

import (
	"fmt"
	"math"
	"slices"
)

// Metadata is a GGUF file's list of keys and values. The order of the keys is
// kept. Values have Go's type of the same name: uint8 to uint64, int8 to int64,
// float32, float64, bool, string, slices of these, and []any for an array of
// arrays, whose elements are slices again.
//
// The getters' second result is false when the key is absent or its value
// cannot be had as that type.
type Metadata struct {
	keys   []string
	values map[string]any
}

// Len is the number of keys.
func (m *Metadata) Len() int { return len(m.keys) }

// Keys returns the keys in the order of the file.
func (m *Metadata) Keys() []string { return slices.Clone(m.keys) }

// Has reports whether the key is there.
func (m *Metadata) Has(key string) bool {
	_, ok := m.values[key]
	return ok
}

// Get returns a value as it is stored; slices are not copied.
func (m *Metadata) Get(key string) (any, bool) {
	v, ok := m.values[key]
	return v, ok
}

// Set gives a key a value, in its old place or at the end. A value of a type
// that GGUF does not have is an error; int is one of them, since the reader of
// the file expects a certain width.
func (m *Metadata) Set(key string, value any) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("a metadata key has 1 to %d bytes, %.40q has %d", maxKey, key, len(key))
	}
	if err := checkValue(value, 0); err != nil {
		return fmt.Errorf("metadata key %q: %w", key, err)
	}
	m.set(key, value)
	return nil
}

func (m *Metadata) set(key string, value any) {
	if m.values == nil {
		m.values = map[string]any{}
	}
	if _, ok := m.values[key]; !ok {
		m.keys = append(m.keys, key)
	}
	m.values[key] = value
}

// Delete removes a key; one that is not there is no matter.
func (m *Metadata) Delete(key string) {
	if _, ok := m.values[key]; ok {
		delete(m.values, key)
		i := slices.Index(m.keys, key)
		m.keys = slices.Delete(m.keys, i, i+1)
	}
}

// Clone returns a copy that can be changed by Set and Delete without a change
// to m. Arrays are shared.
func (m *Metadata) Clone() *Metadata {
	c := &Metadata{keys: slices.Clone(m.keys), values: make(map[string]any, len(m.values))}
	for k, v := range m.values {
		c.values[k] = v
	}
	return c
}

// String returns a text.
func (m *Metadata) String(key string) (string, bool) {
	v, ok := m.values[key].(string)
	return v, ok
}

// Bool returns a truth value.
func (m *Metadata) Bool(key string) (value, ok bool) {
	value, ok = m.values[key].(bool)
	return value, ok
}

// Uint returns an integer of any width that is not negative.
func (m *Metadata) Uint(key string) (uint64, bool) {
	if v, ok := m.values[key].(uint64); ok {
		return v, true
	}
	v, ok := m.Int(key)
	return uint64(v), ok && v >= 0
}

// Int returns an integer of any width that fits.
func (m *Metadata) Int(key string) (int64, bool) {
	switch v := m.values[key].(type) {
	case uint8:
		return int64(v), true
	case int8:
		return int64(v), true
	case uint16:
		return int64(v), true
	case int16:
		return int64(v), true
	case uint32:
		return int64(v), true
	case int32:
		return int64(v), true
	case uint64:
		return int64(v), v <= math.MaxInt64
	case int64:
		return v, true
	}
	return 0, false
}

// Float returns a number of any type.
func (m *Metadata) Float(key string) (float64, bool) {
	switch v := m.values[key].(type) {
	case float32:
		return float64(v), true
	case float64:
		return v, true
	case uint64:
		return float64(v), true
	}
	v, ok := m.Int(key)
	return float64(v), ok
}

// Strings returns an array of texts. It is not a copy.
func (m *Metadata) Strings(key string) ([]string, bool) {
	v, ok := m.values[key].([]string)
	return v, ok
}

// Ints returns an array of integers of any width that all fit.
func (m *Metadata) Ints(key string) ([]int64, bool) {
	switch v := m.values[key].(type) {
	case []uint8:
		return widen(v), true
	case []int8:
		return widen(v), true
	case []uint16:
		return widen(v), true
	case []int16:
		return widen(v), true
	case []uint32:
		return widen(v), true
	case []int32:
		return widen(v), true
	case []uint64:
		return widen(v), len(v) == 0 || slices.Max(v) <= math.MaxInt64
	case []int64:
		return slices.Clone(v), true
	}
	return nil, false
}

func widen[T uint8 | int8 | uint16 | int16 | uint32 | int32 | uint64](v []T) []int64 {
	w := make([]int64, len(v))
	for i, x := range v {
		w[i] = int64(x)
	}
	return w
}

// Floats returns an array of floating-point numbers, float64 rounded.
func (m *Metadata) Floats(key string) ([]float32, bool) {
	switch v := m.values[key].(type) {
	case []float32:
		return slices.Clone(v), true
	case []float64:
		f := make([]float32, len(v))
		for i, x := range v {
			f[i] = float32(x)
		}
		return f, true
	}
	return nil, false
}

// Bools returns an array of truth values.
func (m *Metadata) Bools(key string) ([]bool, bool) {
	v, ok := m.values[key].([]bool)
	return slices.Clone(v), ok
}
