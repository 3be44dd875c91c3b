// Package jsonobj reads a JSON object without losing the order of its keys, so
// that a configuration can be changed in one place and stay as it was in all
// others. Start with [Parse].
package jsonobj

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Object is a JSON object: its keys in order, their values unread.
type Object struct {
	Keys   []string
	Values map[string]json.RawMessage
}

// Parse reads one object and nothing after it. A key that appears twice is an
// error: readers disagree about which one counts.
func Parse(data []byte) (*Object, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	open, err := dec.Token()
	if err != nil {
		return nil, plain(err)
	}
	if open != json.Delim('{') {
		return nil, fmt.Errorf("a JSON object is needed, it begins with %.20q", fmt.Sprint(open))
	}
	o := &Object{Values: map[string]json.RawMessage{}}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, plain(err)
		}
		name, ok := key.(string)
		if !ok {
			return nil, fmt.Errorf("a key is needed, it has %.20q", fmt.Sprint(key))
		}
		if _, dup := o.Values[name]; dup {
			return nil, fmt.Errorf("the key %.100q appears twice", name)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, plain(err)
		}
		o.Keys = append(o.Keys, name)
		o.Values[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, plain(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the JSON object")
	}
	return o, nil
}

// plain says what is wrong without the decoder's wrapping.
func plain(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the JSON object is cut off")
	}
	return err
}

// Has reports whether a key is there with a value that is not null.
func (o *Object) Has(key string) bool {
	v, ok := o.Values[key]
	return ok && !bytes.Equal(v, []byte("null"))
}

// Set gives a key a value, in its old place or at the end.
func (o *Object) Set(key string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if o.Values == nil {
		o.Values = map[string]json.RawMessage{}
	}
	if _, ok := o.Values[key]; !ok {
		o.Keys = append(o.Keys, key)
	}
	o.Values[key] = raw
	return nil
}

// Delete removes a key; one that is not there is no matter.
func (o *Object) Delete(key string) {
	if _, ok := o.Values[key]; !ok {
		return
	}
	delete(o.Values, key)
	for i, k := range o.Keys {
		if k == key {
			o.Keys = append(o.Keys[:i:i], o.Keys[i+1:]...)
			return
		}
	}
}

// MarshalJSON writes the object with its keys in order.
func (o *Object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, k := range o.Keys {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(k)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(o.Values[k])
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// Indented is the object as configuration files are laid out: two spaces, a
// newline at the end.
func (o *Object) Indented() ([]byte, error) {
	raw, err := o.MarshalJSON()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}
