package eval

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"llmc/internal/fault"
)

// Text is what perplexity is measured on. It is read as a stream, once for
// each model's tokenizer, so it may be of any size.
type Text struct {
	Name string                        // how reports and errors call it
	Size int64                         // bytes
	Open func() (io.ReadCloser, error) // from the start, every time
}

// FileText is the text of a file. That the file is there, not a folder and
// not empty is checked now; that it is UTF-8 without NUL, while it is read.
func FileText(path string) (Text, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Text{}, fmt.Errorf("there is no text file %s", path)
	case err != nil:
		return Text{}, fmt.Errorf("cannot read the text: %w", err)
	case info.IsDir():
		return Text{}, fault.Hint(fault.Invalid("the text %s is a folder, allowed is one file of UTF-8 text", path),
			"join the files first: cat %s > text.txt", filepath.Join(path, "*"))
	case info.Mode().IsRegular() && info.Size() == 0:
		return Text{}, fault.Invalid("the text %s is empty", path)
	case !info.Mode().IsRegular():
		return Text{}, fault.Invalid("the text %s is not a regular file", path)
	}
	return Text{Name: path, Size: info.Size(), Open: func() (io.ReadCloser, error) { return os.Open(path) }}, nil
}

// StringText is a text held in memory.
func StringText(name, text string) Text {
	return Text{Name: name, Size: int64(len(text)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(text)), nil
	}}
}

// Reader opens the text; what is read through it is checked to be UTF-8
// without NUL.
func (t Text) Reader() (io.ReadCloser, error) {
	file, err := t.Open()
	if err != nil {
		return nil, fmt.Errorf("cannot read the text: %w", err)
	}
	return struct {
		io.Reader
		io.Closer
	}{newTextReader(t.Name, file, false), file}, nil
}

// textReader passes a text on and refuses what is no text: NUL bytes and
// bytes that are not UTF-8. It counts and hashes what it read.
type textReader struct {
	name   string
	src    io.Reader
	trim   bool // drop one newline at the very end, as llama-perplexity does
	buf    []byte
	held   []byte // bytes of buf that are checked and go out next
	rest   []byte // bytes of buf after them that wait for more
	err    error
	offset int64 // bytes checked so far
	sum    hash.Hash
}

const textBuffer = 1 << 16

func newTextReader(name string, src io.Reader, trim bool) *textReader {
	return &textReader{name: name, src: src, trim: trim, buf: make([]byte, textBuffer), sum: sha256.New()}
}

// Read implements io.Reader.
func (t *textReader) Read(p []byte) (int, error) {
	for len(t.held) == 0 {
		if t.err != nil {
			return 0, t.err
		}
		t.fill()
	}
	n := copy(p, t.held)
	t.held = t.held[n:]
	return n, nil
}

// fill reads more and checks it. Of what was read, an incomplete character,
// and with trim a newline that may be the last byte, wait for the next fill.
func (t *textReader) fill() {
	kept := copy(t.buf, t.rest)
	n, err := t.src.Read(t.buf[kept:])
	data := t.buf[:kept+n]
	t.sum.Write(data[kept:])

	good := 0
	for good < len(data) {
		r, size := utf8.DecodeRune(data[good:])
		if r == utf8.RuneError && size <= 1 {
			if err == nil && !utf8.FullRune(data[good:]) {
				break // the rest of the character is still to come
			}
			t.err = fault.Invalid("%s is not UTF-8 text: byte 0x%02x at offset %d", t.name, data[good], t.offset+int64(good))
			break
		}
		if r == 0 {
			t.err = fault.Invalid("%s is not text: NUL byte at offset %d", t.name, t.offset+int64(good))
			break
		}
		if t.trim && r == '\n' && good+1 == len(data) {
			if errors.Is(err, io.EOF) {
				data = data[:good]
			}
			break
		}
		good += size
	}
	t.offset += int64(good)
	t.held, t.rest = data[:good], data[good:]
	if t.err == nil && err != nil {
		t.err = err
		if !errors.Is(err, io.EOF) {
			t.err = fmt.Errorf("cannot read the text %s: %w", t.name, err)
		}
	}
}

// digest is the SHA-256 of everything read, in hexadecimal.
func (t *textReader) digest() string { return hex.EncodeToString(t.sum.Sum(nil)) }
