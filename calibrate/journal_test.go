package calibrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/internal/fault"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
)

var errKilled = errors.New("killed")

// journaled walks through a model of four blocks and its head. The visitor makes
// q dense, o 8-bit floats and down codes, and changes a norm and the head; it ends the walk at a
// visit, 0 for none. The inputs it saw are returned, and the blocks that were
// loaded.
func journaled(t *testing.T, j *Journal, killAt int) (inputs map[string]Inputs, loaded []int, err error) {
	t.Helper()
	w, tok := tiny(t, tinymodel.Spec{Hidden: 48, FFN: 72, Heads: 4, KVHeads: 2, Layers: 4, Seed: 5, Untied: true})
	windows, err := Windows(tok, strings.Repeat(sentence, 10), Sampling{Samples: 3, Context: 20})
	if err != nil {
		t.Fatal(err)
	}
	inputs = map[string]Inputs{}
	visits := 0
	visit := func(_ context.Context, block int, roles []model.Role, in *Inputs) error {
		if visits++; visits == killAt {
			return errKilled
		}
		inputs[fmt.Sprint(block, roles)] = *in
		switch roles[0] {
		case model.Q:
			values := make([]float32, 48*48)
			for i := range values {
				values[i] = float32(block+i%7) / 100
			}
			w.Replace(model.ID{Role: model.Q, Block: block}, kernels.FromFloat32s(48, 48, values))
		case model.O:
			codes := make([]byte, 48*48)
			for i := range codes {
				codes[i] = byte(i * (block + 5) % 0x7f)
			}
			f, err := kernels.NewFloat8(48, 48, dtype.F8E4M3, codes, 48, 24, []float32{0.01, 0.02})
			if err != nil {
				return err
			}
			w.Replace(model.ID{Role: model.O, Block: block}, f)
		case model.Down:
			g := &kernels.Groups{Rows: 48, Cols: 72, Bits: 3, GroupSize: 24}
			g.Codes = make([]byte, g.Rows*g.CodeBytes())
			for i := range g.Codes {
				g.Codes[i] = byte(i * (block + 3))
			}
			g.Scales = slices.Repeat([]float32{0.01, 0.02, 0.03}, 48)
			g.Zeros = slices.Repeat([]uint8{3, 4, 5}, 48)
			if block == 2 {
				g.GroupOf = slices.Repeat([]int32{2, 0, 1}, 24)
			}
			w.Replace(model.ID{Role: model.Down, Block: block}, g)
		case model.Gate:
			w.ReplaceVector(model.ID{Role: model.FFNNorm, Block: block}, slices.Repeat([]float32{0.5, 1 + float32(block)}, 24))
		case model.Head:
			rows := w.Config.Vocab
			w.Replace(model.ID{Role: model.Head, Block: -1}, kernels.FromFloat32s(rows, 48, make([]float32, rows*48)))
		}
		return nil
	}
	o := Options{Hessian: true, Final: true, Journal: j,
		Save: func(block int) (any, error) { return map[string]int{"block": block}, nil },
		Load: func(block int, saved []byte) error {
			if want := fmt.Sprintf(`{"block":%d}`, block); string(saved) != want {
				t.Errorf("block %d comes with %s, want %s", block, saved, want)
			}
			loaded = append(loaded, block)
			return nil
		},
	}
	dev := kernels.NewCPU(1)
	defer dev.Close()
	err = Walk(context.Background(), dev, w, windows, o, visit)
	return inputs, loaded, err
}

func opening(t *testing.T, dir string, facts []Fact, resume bool) *Journal {
	t.Helper()
	j, err := OpenJournal(dir, facts, resume)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

var someFacts = []Fact{{Name: "--damp", Value: "0.01"}, {Name: "the model", Value: "1234", Digest: true}}

// TestResume ends walks at every visit and takes them up again.
func TestResume(t *testing.T) {
	want, _, err := journaled(t, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for killAt := 1; killAt <= 17; killAt++ {
		dir := filepath.Join(t.TempDir(), ".out.llmc-resume")
		j := opening(t, dir, someFacts, true)
		if _, _, err := journaled(t, j, killAt); err != errKilled {
			t.Fatalf("got %v", err)
		}
		j.Close()
		j = opening(t, dir, someFacts, true)
		if n := (killAt - 1) / 4; j.Blocks() != n {
			t.Fatalf("killed at visit %d: %d blocks are kept, want %d", killAt, j.Blocks(), n)
		}
		got, loaded, err := journaled(t, j, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(loaded) != (killAt-1)/4 {
			t.Errorf("killed at visit %d: the blocks %v were loaded", killAt, loaded)
		}
		for key, in := range got {
			if !reflect.DeepEqual(in, want[key]) {
				t.Fatalf("killed at visit %d: the input %s is another", killAt, key)
			}
		}
		if err := j.Remove(); err != nil {
			t.Error(err)
		}
		j.Close()
		if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) > 0 {
			t.Errorf("%v is left behind", left)
		}
	}
}

// TestResumeDamaged damages kept blocks: they are done again, to the same bits.
func TestResumeDamaged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), ".out.llmc-resume")
	j := opening(t, dir, someFacts, false)
	if _, _, err := journaled(t, j, 0); err != nil {
		t.Fatal(err)
	}
	j.Close()
	if j = opening(t, dir, someFacts, true); j.Blocks() != 5 {
		t.Fatalf("%d blocks are kept, want four and the head's", j.Blocks())
	}
	if got, loaded, err := journaled(t, j, 0); err != nil || len(got) > 0 || !slices.Equal(loaded, []int{0, 1, 2, 3, -1}) {
		t.Errorf("of a finished walk, %d inputs are gathered and the blocks %v loaded, %v", len(got), loaded, err)
	}
	j.Close()
	whole := map[string][]byte{}
	for _, i := range []int{0, 1, 2, 3} {
		name := fmt.Sprintf("block-%04d", i)
		whole[name] = readAll(t, filepath.Join(dir, name))
	}
	for name, damage := range map[string]func([]byte) []byte{
		"cut":       func(b []byte) []byte { return b[:len(b)-1] },
		"empty":     func(b []byte) []byte { return nil },
		"flipped":   func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"header":    func(b []byte) []byte { b[20] ^= 1; return b },
		"another's": func([]byte) []byte { return whole["block-0002"] },
	} {
		path := filepath.Join(dir, "block-0001")
		if err := os.WriteFile(path, damage(slices.Clone(whole["block-0001"])), 0o600); err != nil {
			t.Fatal(err)
		}
		j := opening(t, dir, someFacts, true)
		if !slices.Equal(j.Damaged, []int{1}) || j.Blocks() != 4 {
			t.Errorf("%s: the blocks %v are damaged, %d are not", name, j.Damaged, j.Blocks())
		}
		if _, loaded, err := journaled(t, j, 0); err != nil || !slices.Equal(loaded, []int{0, 2, 3, -1}) {
			t.Errorf("%s: the blocks %v were loaded, %v", name, loaded, err)
		}
		j.Close()
		if !slices.Equal(readAll(t, path), whole["block-0001"]) {
			t.Errorf("%s: the block that was done again is another", name)
		}
	}
}

func readAll(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestResumeRefuses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), ".out.llmc-resume")
	j := opening(t, dir, someFacts, false)
	if _, err := OpenJournal(dir, someFacts, true); fault.KindOf(err) != fault.UsageError || !strings.Contains(err.Error(), "another llmc") {
		t.Errorf("while it is in use: %v", err)
	}
	if _, _, err := journaled(t, j, 6); err != errKilled {
		t.Fatal(err)
	}
	j.Close()
	for want, facts := range map[string][]Fact{
		`--damp was "0.01" and is "0.05"`:    {{Name: "--damp", Value: "0.05"}, someFacts[1]},
		`the model is not the same`:          {someFacts[0], {Name: "the model", Value: "5678", Digest: true}},
		`--bits was not known and is "4"`:    append(slices.Clone(someFacts), Fact{Name: "--bits", Value: "4"}),
		`--damp was "0.01" and is not known`: someFacts[1:],
	} {
		_, err := OpenJournal(dir, facts, true)
		if fault.KindOf(err) != fault.UsageError || !strings.Contains(err.Error(), want) || fault.HintOf(err) == "" {
			t.Errorf("got %v, want an error with %s, and a hint", err, want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, factsName), []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenJournal(dir, someFacts, true); fault.KindOf(err) != fault.InvalidFile {
		t.Errorf("a damaged record: %v", err)
	}
	// What was not begun with --resume begins anew.
	j = opening(t, dir, someFacts, false)
	defer j.Close()
	if j.Blocks() != 0 {
		t.Errorf("%d blocks are left of what was to be removed", j.Blocks())
	}
}

// TestRemoveKeepsOthers puts a file into the folder that is not the journal's.
func TestRemoveKeepsOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), ".out.llmc-resume")
	j := opening(t, dir, someFacts, false)
	if err := os.WriteFile(filepath.Join(dir, "mine"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := j.Remove(); err == nil {
		t.Error("a folder with a file of somebody else was removed")
	}
	j.Close()
	if string(readAll(t, filepath.Join(filepath.Dir(dir), ".out.llmc-done", "mine"))) != "mine" {
		t.Error("a file of somebody else is gone")
	}
}

// TestNote: what a run has noted is there for one with the same facts, if it is
// whole.
func TestNote(t *testing.T) {
	dir := filepath.Join(t.TempDir(), ".out.llmc-resume")
	j := opening(t, dir, someFacts, false)
	var got []float64
	if j.Noted("search", &got) || !j.Empty() {
		t.Error("a new journal has a note")
	}
	want := []float64{1.0 / 3, 2}
	if err := j.Note("search", want); err != nil {
		t.Fatal(err)
	}
	j.Close()
	if blocks, any := Unfinished(dir); blocks != 0 || !any {
		t.Errorf("%d blocks are unfinished, anything: %t", blocks, any)
	}
	path := filepath.Join(dir, "note-search")
	whole := readAll(t, path)
	for name, data := range map[string][]byte{
		"cut": whole[:len(whole)-1], "empty": nil, "no sum": whole[65:], "flipped": append(slices.Clone(whole[:len(whole)-2]), '3', ']'),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		j = opening(t, dir, someFacts, true)
		if j.Noted("search", &got) || !j.Empty() {
			t.Errorf("%s: a damaged note is believed", name)
		}
		j.Close()
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	j = opening(t, dir, someFacts, true)
	if !j.Noted("search", &got) || !slices.Equal(got, want) || j.Empty() {
		t.Errorf("the note is %v, want %v", got, want)
	}
	if j.Noted("other", &got) {
		t.Error("there is a note of another name")
	}
	if err := j.Remove(); err != nil {
		t.Error(err)
	}
	j.Close()
	if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) > 0 {
		t.Errorf("%v is left behind", left)
	}
}
