package distill

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// likely is a teacher that tells the likeliest tokens of another.
type likely struct {
	Teacher
	top   int
	calls int
	stop  int // fails with this call of Prepare; 0 never
}

var errStopped = errors.New("stopped")

func (l *likely) Prepare(ctx context.Context, windows []int, seqs [][]int32) error {
	if l.calls++; l.calls == l.stop {
		return errStopped
	}
	return l.Teacher.Prepare(ctx, windows, seqs)
}

func (l *likely) Rows(ctx context.Context, seq, first, n int) ([]Prediction, error) {
	rows, err := l.Teacher.Rows(ctx, seq, first, n)
	for i := range rows {
		if !Top(rows[i].Logits, 1, l.top, &rows[i]) {
			return nil, errors.New("not finite")
		}
	}
	return rows, err
}

func testKey(top int, d *Data) CacheKey {
	return CacheKey{Teacher: "t", TeacherName: "teacher/", Text: "x", TextName: "text.txt", Windows: len(d.Train), Context: len(d.Train[0]) - 1, Vocab: testVocab, Top: top, Temperature: 1}
}

// TestCache reads what was written, breaks off in between, and compares.
func TestCache(t *testing.T) {
	for _, top := range []int{1, 4, testVocab} {
		d := testData(6)
		teacher := &oracle{bigram: newBigram(testVocab, 77)}
		key := testKey(top, d)
		dir := t.TempDir()
		whole, part := filepath.Join(dir, "whole"), filepath.Join(dir, "part")
		if err := WriteCache(t.Context(), whole, key, &likely{Teacher: teacher, top: top}, d.Train, nil); err != nil {
			t.Fatal(err)
		}
		for stop := 1; stop < 4; stop++ { // each goes on from where the last one was
			if err := WriteCache(t.Context(), part, key, &likely{Teacher: teacher, top: top, stop: stop}, d.Train, nil); !errors.Is(err, errStopped) {
				t.Fatal(err)
			}
		}
		rest := &likely{Teacher: teacher, top: top}
		if err := WriteCache(t.Context(), part, key, rest, d.Train, nil); err != nil {
			t.Fatal(err)
		}
		if rest.calls != 6-3 {
			t.Errorf("%d windows were predicted, 3 were missing", rest.calls)
		}
		a, _ := os.ReadFile(whole)
		b, _ := os.ReadFile(part)
		if len(a) == 0 || !slices.Equal(a, b) {
			t.Error("a cache that was broken off differs from one that was not")
		}
		c, err := OpenCache(whole, &key)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		sameRows(t, c, &likely{Teacher: teacher, top: top}, d.Train)
	}
}

func sameRows(t *testing.T, c *Cache, l *likely, windows [][]int32) {
	t.Helper()
	for i, w := range windows {
		ids := w[:len(w)-1]
		if err := c.Prepare(t.Context(), []int{i}, nil); err != nil {
			t.Fatal(err)
		}
		_ = l.Prepare(t.Context(), []int{i}, [][]int32{ids})
		want, _ := l.Rows(t.Context(), 0, 0, len(ids))
		got, err := c.Rows(t.Context(), 0, 0, len(ids))
		if err != nil {
			t.Fatal(err)
		}
		for j := range want {
			if !slices.Equal(got[j].IDs, want[j].IDs) {
				t.Fatalf("window %d, position %d: tokens %v, want %v", i, j, got[j].IDs, want[j].IDs)
			}
			sum := math.Exp(float64(got[j].LogTail))
			for k, lp := range got[j].LogProbs {
				sum += math.Exp(float64(lp))
				if math.Abs(float64(lp-want[j].LogProbs[k])) > 1.0/logSteps {
					t.Fatalf("window %d, position %d: log-probability %v, want %v", i, j, lp, want[j].LogProbs[k])
				}
			}
			if math.Abs(sum-1) > 1e-6 {
				t.Fatalf("window %d, position %d: the probabilities sum to %v", i, j, sum)
			}
		}
	}
}

// TestForeignCache: what is of something else, or damaged, is refused.
func TestForeignCache(t *testing.T) {
	d := testData(6)
	key := testKey(4, d)
	path := filepath.Join(t.TempDir(), "cache")
	if err := WriteCache(t.Context(), path, key, &likely{Teacher: &oracle{bigram: newBigram(testVocab, 77)}, top: 4}, d.Train, nil); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*CacheKey){
		"another teacher (teacher/)": func(k *CacheKey) { k.Teacher = "u" },
		"another text (text.txt)":    func(k *CacheKey) { k.Text = "y" },
		"windows of 12 tokens":       func(k *CacheKey) { k.Context = 13 },
		"of the 4 likeliest":         func(k *CacheKey) { k.Top = 5 },
		"the temperature 1, not 2":   func(k *CacheKey) { k.Temperature = 2 },
		"of 11 tokens":               func(k *CacheKey) { k.Vocab = 12 },
	} {
		other := key
		change(&other)
		if _, err := OpenCache(path, &other); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q", err, want)
		}
	}
	anyTeacher := key
	anyTeacher.Teacher = ""
	if c, err := OpenCache(path, &anyTeacher); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	good, _ := os.ReadFile(path)
	for at := 0; at < len(good); at += 1 + at/10 {
		bad := slices.Clone(good)
		bad[at] ^= 1
		for _, data := range [][]byte{bad, good[:at]} {
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := readAll(t, path, &key, d.Train); err == nil {
				t.Fatalf("damage at %d is not noticed", at)
			}
		}
	}
}

func readAll(t *testing.T, path string, key *CacheKey, windows [][]int32) error {
	c, err := OpenCache(path, key)
	if err != nil {
		return err
	}
	defer c.Close()
	for i, w := range windows {
		if err := c.Prepare(t.Context(), []int{i}, nil); err != nil {
			return err
		}
		if _, err := c.Rows(t.Context(), 0, 0, len(w)-1); err != nil {
			return err
		}
	}
	return nil
}
