package distill

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"llmc/formats/raw"
	"llmc/internal/fault"
)

// CacheKey says what a cache holds the predictions of. All of it must be the
// same for a cache to be used, but for the names.
type CacheKey struct {
	TeacherName string  `json:"teacher_name"`
	Teacher     string  `json:"teacher"` // digest of its files
	TextName    string  `json:"text_name"`
	Text        string  `json:"text"` // digest of the windows of token ids
	Windows     int     `json:"windows"`
	Context     int     `json:"context"` // predictions of a window
	Vocab       int     `json:"vocab"`
	Top         int     `json:"top_k"` // tokens of a prediction
	Temperature float64 `json:"temperature"`
}

// cacheMagic begins a cache. The header's length follows, as 4 bytes, the header
// with its checksum, and window after window, each with its checksum. A window
// is for each of its positions the likeliest tokens, as 2 bytes each or 3 where
// the vocabulary is larger than that, their log-probabilities, as 2 bytes each
// in steps of 1/2048 below 0, and the logarithm of what is left, a float32.
const cacheMagic = "LLMCTCH1"

// logSteps is how many steps a cache divides a factor of e into. The least
// log-probability is -32.
const logSteps = 2048

func (k *CacheKey) idBytes() int {
	if k.Vocab > 1<<16 {
		return 3
	}
	return 2
}

// BytesPerToken is what a cache takes for each prediction.
func (k *CacheKey) BytesPerToken() int { return k.Top*(k.idBytes()+2) + 4 }

func (k *CacheKey) windowBytes() int { return k.Context*k.BytesPerToken() + 4 }

// Bytes is the size of a cache, but for its header.
func (k *CacheKey) Bytes() int64 { return int64(k.Windows) * int64(k.windowBytes()) }

func (k *CacheKey) header() ([]byte, error) {
	text, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	head := binary.LittleEndian.AppendUint32([]byte(cacheMagic), uint32(len(text)))
	head = append(head, text...)
	return binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli)), nil
}

// maxHeader bounds the header of a cache.
const maxHeader = 1 << 16

// readCacheKey reads the header of a cache and returns its length.
func readCacheKey(r io.Reader) (*CacheKey, int64, error) {
	head := make([]byte, len(cacheMagic)+4)
	if _, err := io.ReadFull(r, head); err != nil || string(head[:len(cacheMagic)]) != cacheMagic {
		return nil, 0, fault.Invalid("it does not begin as a cache of llmc does")
	}
	n := int(binary.LittleEndian.Uint32(head[len(cacheMagic):]))
	if n > maxHeader {
		return nil, 0, fault.Invalid("its header has %d bytes, allowed are %d", n, maxHeader)
	}
	rest := make([]byte, n+4)
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, 0, fault.Invalid("its header is cut off")
	}
	head = append(head, rest[:n]...)
	if crc32.Checksum(head, castagnoli) != binary.LittleEndian.Uint32(rest[n:]) {
		return nil, 0, fault.Invalid("the checksum of its header is wrong")
	}
	var k CacheKey
	if err := json.Unmarshal(rest[:n], &k); err != nil {
		return nil, 0, fault.Invalid("its header is not one: %w", err)
	}
	if k.Windows < 1 || k.Windows > 1<<31 || k.Context < 1 || k.Context > 1<<24 || k.Vocab < 1 || k.Vocab > 1<<24 || k.Top < 1 || k.Top > k.Vocab || k.Top > 1<<12 {
		return nil, 0, fault.Invalid("its header speaks of %d windows of %d predictions of %d among %d tokens", k.Windows, k.Context, k.Top, k.Vocab)
	}
	return &k, int64(len(head) + 4), nil
}

// differs says what of another cache's key is not this one's, "" if nothing is.
func (k *CacheKey) differs(o *CacheKey) string {
	switch {
	case k.Teacher != o.Teacher && o.Teacher != "":
		return fmt.Sprintf("of another teacher (%s)", k.TeacherName)
	case k.Vocab != o.Vocab:
		return fmt.Sprintf("of %d tokens, not %d", k.Vocab, o.Vocab)
	case k.Context != o.Context:
		return fmt.Sprintf("of windows of %d tokens, not %d", k.Context, o.Context)
	case k.Text != o.Text || k.Windows != o.Windows:
		return fmt.Sprintf("of another text (%s)", k.TextName)
	case k.Top != o.Top:
		return fmt.Sprintf("of the %d likeliest tokens, not %d", k.Top, o.Top)
	case k.Temperature != o.Temperature:
		return fmt.Sprintf("at the temperature %g, not %g", k.Temperature, o.Temperature)
	}
	return ""
}

// appendRow adds a prediction to a window.
func (k *CacheKey) appendRow(buf []byte, p *Prediction) []byte {
	for _, id := range p.IDs {
		buf = append(buf, byte(id), byte(id>>8))
		if k.idBytes() == 3 {
			buf = append(buf, byte(id>>16))
		}
	}
	for _, lp := range p.LogProbs {
		steps := math.Round(-float64(lp) * logSteps)
		buf = binary.LittleEndian.AppendUint16(buf, uint16(min(max(steps, 0), math.MaxUint16)))
	}
	return binary.LittleEndian.AppendUint32(buf, math.Float32bits(p.LogTail))
}

// row reads a prediction. Its probabilities are made to sum to 1 again.
func (k *CacheKey) row(data []byte, p *Prediction) error {
	p.Logits, p.IDs, p.LogProbs = nil, p.IDs[:0], p.LogProbs[:0]
	size := k.idBytes()
	for i := range k.Top {
		b := data[i*size:]
		id := int32(b[0]) | int32(b[1])<<8
		if size == 3 {
			id |= int32(b[2]) << 16
		}
		if int(id) >= k.Vocab {
			return fault.Invalid("the cache holds token %d of %d", id, k.Vocab)
		}
		p.IDs = append(p.IDs, id)
	}
	data = data[k.Top*size:]
	sum := 0.0
	for i := range k.Top {
		lp := -float64(binary.LittleEndian.Uint16(data[2*i:])) / logSteps
		p.LogProbs = append(p.LogProbs, float32(lp))
		sum += math.Exp(lp)
	}
	p.LogTail = math.Float32frombits(binary.LittleEndian.Uint32(data[2*k.Top:]))
	if !(p.LogTail <= 1) {
		return fault.Invalid("the cache holds a probability of %g", math.Exp(float64(p.LogTail)))
	}
	sum += math.Exp(float64(p.LogTail))
	shift := float32(math.Log(sum))
	for i := range p.LogProbs {
		p.LogProbs[i] -= shift
	}
	p.LogTail -= shift
	return nil
}

// Cache is a teacher whose predictions were kept.
type Cache struct {
	Key CacheKey

	file   *os.File
	path   string
	header int64

	loaded [][]byte // by sequence: its window
	rows   []Prediction
}

// OpenCache opens a cache and refuses one that is damaged or of anything else
// than want, whose Teacher may be "" for any.
func OpenCache(path string, want *CacheKey) (*Cache, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the cache %s: %w", path, raw.Cause(err))
	}
	key, n, err := readCacheKey(f)
	if err == nil {
		err = checkCache(f, key, n, want)
	}
	if err != nil {
		f.Close()
		return nil, fault.Hint(fault.Invalid("the cache %s cannot be used: %w", path, err), "another name makes another cache")
	}
	return &Cache{Key: *key, file: f, path: path, header: n}, nil
}

func checkCache(f *os.File, key *CacheKey, header int64, want *CacheKey) error {
	if differs := key.differs(want); differs != "" {
		return fault.Invalid("it holds predictions %s", differs)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if size := header + key.Bytes(); info.Size() != size {
		return fault.Invalid("it has %d bytes, its header asks for %d", info.Size(), size)
	}
	return nil
}

// Close closes the file.
func (c *Cache) Close() error { return c.file.Close() }

// Prepare reads windows and compares their checksums.
func (c *Cache) Prepare(ctx context.Context, windows []int, _ [][]int32) error {
	c.loaded = c.loaded[:0]
	for _, w := range windows {
		if err := ctx.Err(); err != nil {
			return err
		}
		if w < 0 || w >= c.Key.Windows {
			return fault.Invalid("the cache %s has no predictions for what is not in the text", c.path)
		}
		data := make([]byte, c.Key.windowBytes())
		if _, err := c.file.ReadAt(data, c.header+int64(w)*int64(len(data))); err != nil {
			return fmt.Errorf("cannot read the cache %s: %w", c.path, raw.Cause(err))
		}
		if !whole(data) {
			return fault.Hint(fault.Invalid("the cache %s is damaged: the checksum of window %d is wrong", c.path, w), "remove it, and it is made again")
		}
		c.loaded = append(c.loaded, data)
	}
	return nil
}

// whole reports whether a window ends with its checksum.
func whole(data []byte) bool {
	n := len(data) - 4
	return crc32.Checksum(data[:n], castagnoli) == binary.LittleEndian.Uint32(data[n:])
}

// Rows decodes predictions.
func (c *Cache) Rows(_ context.Context, seq, first, n int) ([]Prediction, error) {
	for len(c.rows) < n {
		c.rows = append(c.rows, Prediction{})
	}
	size := c.Key.BytesPerToken()
	for i := range n {
		if err := c.Key.row(c.loaded[seq][(first+i)*size:], &c.rows[i]); err != nil {
			return nil, err
		}
	}
	return c.rows[:n], nil
}

// partCache is where a cache is made: a hidden file beside it, which stays when
// that is broken off, so that it can go on.
func partCache(path string) string {
	clean := filepath.Clean(path)
	return filepath.Join(filepath.Dir(clean), "."+filepath.Base(clean)+".llmc-part")
}

// HasCache reports whether there is something by the name of a cache.
func HasCache(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// WriteCache writes what a teacher predicts in all windows. A file that is there
// is an error. What was written when making the same cache was broken off is
// taken up. progress may be nil and is told windows.
func WriteCache(ctx context.Context, path string, key CacheKey, t Teacher, windows [][]int32, progress func(done, total int64)) error {
	if strings.HasSuffix(path, string(filepath.Separator)) || HasCache(path) {
		return fault.Usage("%s exists already", path)
	}
	part := partCache(path)
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return fmt.Errorf("cannot write the cache %s: %w", path, raw.Cause(err))
	}
	defer f.Close()
	w := &cacheWriter{key: key, f: f, teacher: t, windows: windows, progress: progress}
	if err := w.run(ctx); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("cannot write the cache %s: %w", path, raw.Cause(err))
	}
	if err := os.Rename(part, path); err != nil {
		return fmt.Errorf("cannot write the cache %s: %w", path, raw.Cause(err))
	}
	return nil
}

type cacheWriter struct {
	key      CacheKey
	f        *os.File
	teacher  Teacher
	windows  [][]int32
	progress func(done, total int64)
}

// run writes the windows that are missing.
func (w *cacheWriter) run(ctx context.Context) error {
	done, err := w.begin()
	if err != nil {
		return err
	}
	for i := done; i < len(w.windows); i++ {
		data, err := w.window(ctx, i)
		if err != nil {
			return err
		}
		if _, err := w.f.Write(data); err != nil {
			return fmt.Errorf("cannot write the cache: %w", raw.Cause(err))
		}
		if w.progress != nil {
			w.progress(int64(i+1), int64(len(w.windows)))
		}
	}
	return w.f.Sync()
}

// begin keeps what is there of the same cache, up to the first window that is
// not whole, and returns how many windows that is.
func (w *cacheWriter) begin() (int, error) {
	head, err := w.key.header()
	if err != nil {
		return 0, err
	}
	done := 0
	if old, _, err := readCacheKey(w.f); err == nil && *old == w.key {
		data := make([]byte, w.key.windowBytes())
		for done < len(w.windows) {
			if _, err := io.ReadFull(w.f, data); err != nil || !whole(data) {
				break
			}
			done++
		}
	}
	end := int64(0)
	if done > 0 {
		end = int64(len(head)) + int64(done)*int64(w.key.windowBytes())
	}
	if err := w.f.Truncate(end); err != nil {
		return 0, err
	}
	if _, err := w.f.Seek(end, io.SeekStart); err != nil {
		return 0, err
	}
	if done == 0 {
		_, err = w.f.Write(head)
	}
	return done, err
}

// window is the predictions of one window and their checksum.
func (w *cacheWriter) window(ctx context.Context, i int) ([]byte, error) {
	ids := w.windows[i]
	ids = ids[:len(ids)-1]
	if err := w.teacher.Prepare(ctx, []int{i}, [][]int32{ids}); err != nil {
		return nil, err
	}
	buf := make([]byte, 0, w.key.windowBytes())
	const rows = 128
	for first := 0; first < len(ids); first += rows {
		predictions, err := w.teacher.Rows(ctx, 0, first, min(rows, len(ids)-first))
		if err != nil {
			return nil, err
		}
		for j := range predictions {
			buf = w.key.appendRow(buf, &predictions[j])
		}
	}
	return binary.LittleEndian.AppendUint32(buf, crc32.Checksum(buf, castagnoli)), nil
}
