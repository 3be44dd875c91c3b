package eval

import (
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// TestQuantiles: what does not fit is off by less than a bucket.
func TestQuantiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	exact, bounded := newQuantiles(), newQuantiles()
	bounded.limit = 100
	for range 10001 {
		v := math.Exp(3 * rng.NormFloat64())
		exact.add(v)
		bounded.add(v)
	}
	for _, p := range []float64{0, 0.5, 0.9, 0.99, 1} {
		a, b := exact.at(p), bounded.at(p)
		if math.Abs(a-b) > a/2048 {
			t.Errorf("quantile %v is %v in buckets, %v exactly", p, b, a)
		}
	}
	if bounded.values != nil {
		t.Error("values are still kept")
	}
}

// TestTextReader: a text arrives whole, however its reads are cut.
func TestTextReader(t *testing.T) {
	text := strings.Repeat("a é € 😀\n", 20000)
	for _, src := range []io.Reader{
		strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text)), iotest.DataErrReader(strings.NewReader(text)),
	} {
		for _, trim := range []bool{false, true} {
			src := src
			if s, ok := src.(io.Seeker); ok {
				_, _ = s.Seek(0, io.SeekStart)
			} else if trim {
				src = iotest.OneByteReader(strings.NewReader(text))
			}
			r := newTextReader("text", src, trim)
			got, err := io.ReadAll(r)
			want := text
			if trim {
				want = text[:len(text)-1]
			}
			if err != nil || string(got) != want {
				t.Errorf("trim %v: %d bytes, error %v, want %d", trim, len(got), err, len(want))
			}
		}
	}
}

func TestTextReaderKeepsError(t *testing.T) {
	r := newTextReader("text", iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("abc"))), false)
	if _, err := io.ReadAll(r); err == nil || !strings.Contains(err.Error(), "cannot read the text") {
		t.Errorf("error %v, want that the text cannot be read", err)
	}
}

// FuzzTextReader: what is UTF-8 without NUL passes unchanged, the rest is an
// error, wherever reads are cut.
func FuzzTextReader(f *testing.F) {
	for _, seed := range []string{"", "\n", "text\n", "é€😀", "\xc3", "a\xffb", "a\x00b", "\xed\xa0\x80", "\xef\xbf\xbd"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		good := utf8.ValidString(text) && !strings.Contains(text, "\x00")
		for _, src := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text))} {
			got, err := io.ReadAll(newTextReader("text", src, false))
			if (err == nil) != good || good && string(got) != text {
				t.Errorf("%q reads as %q, error %v", text, got, err)
			}
		}
	})
}
